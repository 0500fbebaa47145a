"""Both sources give the same names, shapes and values: what was written is what `read_rows` reads."""

import json
import os
import pickle
import shutil

import gguf
import numpy as np
import pytest

import tiny
from jiffy.checkpoint import Checkpoint, open_checkpoint
from jiffy.config import Config
from jiffy.errors import Error, FormatError, ParameterError, Unsupported
from jiffy.gguf import read_gguf
from jiffy.rope import RopeScaling
from jiffy.tensor_entry import TensorEntry


def values(entry: TensorEntry, step: int | None = None) -> np.ndarray:
    """The tensor as float32 of its shape, read in pieces of `step` rows."""
    step = step or entry.n_rows
    raw = np.concatenate([entry.read_rows(at, min(at + step, entry.n_rows)) for at in range(0, entry.n_rows, step)])
    assert raw.dtype == np.uint8 and raw.shape == (entry.n_rows, entry.row_bytes)
    stored = raw.view({"f32": np.float32, "f16": np.float16}.get(entry.dtype, np.uint8))
    kind = gguf.GGMLQuantizationType[entry.dtype.upper()]
    return gguf.quants.dequantize(stored, kind).astype(np.float32).reshape(entry.shape)


def assert_holds(checkpoint: Checkpoint, weights: dict[str, np.ndarray]) -> None:
    assert checkpoint.tensors.keys() == weights.keys()
    for name, expected in weights.items():
        assert checkpoint.tensors[name].name == name
        np.testing.assert_array_equal(values(checkpoint.tensors[name]), expected, err_msg=name)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_hugging_face_folder(tmp_path, dtype, shards):
    weights = tiny.write_hf_llama(tmp_path, dtype=dtype, shards=shards, tied=shards == 1, bias=shards == 3)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, weights)
    assert {entry.dtype for entry in checkpoint.tensors.values()} == {dtype}
    assert checkpoint.text.place == str(tmp_path)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q4_0", "q4_1", "q8_0"])
def test_gguf_file(tmp_path, dtype):
    """q and k are written in interleaved order and come back in the order of the weights."""
    weights = tiny.write_gguf_llama(tmp_path / "a.gguf", dtype=dtype)
    checkpoint = open_checkpoint(tmp_path / "a.gguf")
    assert_holds(checkpoint, weights)
    assert checkpoint.tensors["layers.1.mlp.down_proj.weight"].dtype == dtype
    assert checkpoint.tensors["norm.weight"].dtype == "f32"
    assert checkpoint.text["tokenizer.ggml.tokens"] == tiny.vocabulary(259)[0]


def test_gguf_file_with_all_options(tmp_path):
    weights = tiny.write_gguf_llama(
        tmp_path / "a.gguf", dtype="q4_1", embed_dtype="q8_0", tied=False, bias=True, head_dim=24, vocab_size=300
    )
    checkpoint = open_checkpoint(str(tmp_path / "a.gguf"))
    assert_holds(checkpoint, weights)
    assert checkpoint.tensors["lm_head.weight"].dtype == "q8_0"
    assert checkpoint.tensors["layers.0.self_attn.o_proj.weight"].dtype == "q4_1"
    assert not checkpoint.config.tied and checkpoint.config.attention_bias and checkpoint.config.head_dim == 24


@pytest.mark.parametrize("step", [1, 3, 7, 16, 40])
@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj"])
def test_pieces_of_rows(tmp_path, part, step):
    """Pieces may begin and end within a head."""
    weights = tiny.write_gguf_llama(tmp_path / "a.gguf", dtype="q8_0")
    name = f"layers.1.self_attn.{part}.weight"
    entry = open_checkpoint(tmp_path / "a.gguf").tensors[name]
    np.testing.assert_array_equal(values(entry, step), weights[name])


def test_rows_that_do_not_exist(tmp_path):
    tiny.write_hf_llama(tmp_path)
    entry = open_checkpoint(tmp_path).tensors["layers.0.mlp.up_proj.weight"]
    for start, stop in [(0, 81), (-1, 2), (5, 5), (7, 3), (1 << 62, 1 << 63)]:
        with pytest.raises(ParameterError, match="rows within 0..80"):
            entry.read_rows(start, stop)


def test_a_file_that_shrinks_after_opening(tmp_path):
    tiny.write_gguf_llama(tmp_path / "a.gguf")
    entry = open_checkpoint(tmp_path / "a.gguf").tensors["norm.weight"]
    os.truncate(tmp_path / "a.gguf", entry.offset + 4)
    with pytest.raises(FormatError, match="a.gguf norm.weight: expected 256 bytes at .*, found 4 bytes"):
        entry.read_rows(0, entry.n_rows)
    (tmp_path / "a.gguf").unlink()
    with pytest.raises(FormatError, match="expected a readable file, found No such file"):
        entry.read_rows(0, 1)


def test_our_gguf_reader_agrees_with_the_library(tmp_path):
    path = tmp_path / "a.gguf"
    tiny.write_gguf_llama(path, vocab_size=500, chat_template="{{ messages }}", metadata={"general.alignment": 16})
    ours, library = read_gguf(path), gguf.GGUFReader(path)
    keys = {key for key in library.fields if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == keys
    for key in keys:
        np.testing.assert_array_equal(ours.metadata[key], library.fields[key].contents(), err_msg=key)
    assert ours.tensors.keys() == {tensor.name for tensor in library.tensors}
    for tensor in library.tensors:
        entry = ours.tensors[tensor.name]
        assert (entry.offset, entry.n_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert entry.shape == tuple(reversed(tensor.shape.tolist()))


def test_config_of_both_sources(tmp_path):
    """The same model, told in two ways."""
    sizes = dict(dim=64, ffn_dim=96, n_layers=2, n_heads=4, n_kv_heads=2)
    tiny.write_hf_llama(tmp_path / "hf", **sizes)
    tiny.write_gguf_llama(tmp_path / "a.gguf", **sizes)
    told = [open_checkpoint(tmp_path / name).config.__dict__ for name in ("hf", "a.gguf")]
    eps = [config.pop("norm_eps") for config in told]
    assert told[0] == told[1]
    assert eps[1] == np.float32(eps[0])  # GGUF keeps it as f32
    assert told[0] == {
        **sizes,
        "model_type": "llama",
        "head_dim": 16,
        "vocab_size": 259,
        "rope_theta": 10000.0,
        "rope_scaling": RopeScaling(),
        "context_length": 2048,
        "windows": (0, 0),
        "tied": True,
        "bos_id": tiny.BOS,
        "eos_ids": (tiny.EOS,),
        "attention_bias": False,
        "output_bias": False,
        "mlp_bias": False,
    }


def test_config_variants(tmp_path):
    """transformers 5 writes rope_parameters, 4 a null rope_scaling; keys may be left out; ids are merged."""
    tiny.write_hf_llama(tmp_path, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}, eos_token_id=[5, 3])
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 7]}')
    config = Config.from_hf(tmp_path)
    assert config.rope_theta == 5e5 and config.eos_ids == (5, 3, 7)
    raw = json.loads((tmp_path / "config.json").read_text())
    left_out = ("head_dim", "rope_parameters", "bos_token_id", "hidden_act", "num_key_value_heads", "rms_norm_eps")
    least = {key: value for key, value in raw.items() if key not in left_out} | {"rope_scaling": None}
    (tmp_path / "config.json").write_text(json.dumps(least))
    config = Config.from_hf(tmp_path)
    assert (config.head_dim, config.n_kv_heads, config.rope_theta, config.bos_id) == (16, 3, 1e4, None)


def test_a_head_in_the_file_is_used_although_config_ties_it(tmp_path):
    weights = tiny.write_hf_llama(tmp_path, tied=False, tie_word_embeddings=True)
    checkpoint = open_checkpoint(tmp_path)
    assert not checkpoint.config.tied
    assert_holds(checkpoint, weights)


def test_names_without_prefix_and_old_rope_tables_are_fine(tmp_path):
    weights = tiny.write_hf_llama(tmp_path)
    tensors = {name: ("F32", list(value.shape), value.tobytes()) for name, value in weights.items()}
    tensors["layers.0.self_attn.rotary_emb.inv_freq"] = ("F32", [8], bytes(32))
    tiny.write_safetensors(tmp_path / "model.safetensors", tensors)
    assert_holds(open_checkpoint(tmp_path), weights)


def test_hub_cache_layout(tmp_path):
    """Snapshots are links into blobs beside them; one step further out is refused."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    weights = tiny.write_hf_llama(snapshot, shards=2)
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        shutil.move(path, blobs / f"blob-{path.name}")
        path.symlink_to(f"../../blobs/blob-{path.name}")
    assert_holds(open_checkpoint(snapshot), weights)
    shard = snapshot / "model-00001-of-00002.safetensors"
    shutil.move(blobs / f"blob-{shard.name}", tmp_path / "outside")
    shard.unlink()
    shard.symlink_to(tmp_path / "outside")
    with pytest.raises(FormatError, match="expected a file inside of the folder"):
        open_checkpoint(snapshot)


def test_a_link_for_the_only_weights_is_fine(tmp_path):
    weights = tiny.write_hf_llama(tmp_path / "model")
    shutil.move(tmp_path / "model" / "model.safetensors", tmp_path / "elsewhere")
    (tmp_path / "model" / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert_holds(open_checkpoint(tmp_path / "model"), weights)


def test_gguf_version_2_is_read(tmp_path):
    weights = tiny.write_gguf_llama(tmp_path / "a.gguf")
    raw = bytearray((tmp_path / "a.gguf").read_bytes())
    raw[4] = 2
    (tmp_path / "a.gguf").write_bytes(raw)
    assert_holds(open_checkpoint(tmp_path / "a.gguf"), weights)


@pytest.mark.parametrize("path", ["", "none", "no/such/folder", "a\0b", "x" * 5000, "/dev/null"])
def test_paths_that_are_no_models(path):
    with pytest.raises(FormatError, match="expected a readable file"):
        open_checkpoint(path)


def test_errors():
    error = FormatError("a.gguf x", expected="1", found="a\x1b[31m\ud800" + "y" * 1000)
    assert isinstance(error, (Error, ValueError)) and error.where == "a.gguf x" and error.expected == "1"
    assert str(error).isprintable() and len(str(error)) < 500 and "\\x1b[31m\\ud800" in error.found
    copy = pickle.loads(pickle.dumps(Unsupported("w", expected="e", found="f")))
    assert type(copy) is Unsupported and str(copy) == "w: expected e, found f"
