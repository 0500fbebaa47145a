"""The packed model file: the same bits, one file alone, read by anybody's safetensors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import jiffy
import tiny
from jiffy import _core
from jiffy.check import check
from jiffy.checkpoint import open_checkpoint
from jiffy.errors import FormatError, ParameterError, Unsupported

IDS = [1, 7, 300, 5, 255, 9, 9, 42]
ROPES = {
    "plain": None,
    "linear": {"rope_type": "linear", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024},
}


def packed(below: Path, source: Path, **options: object) -> Path:
    out = below / "packed.jiffy"
    jiffy.pack(source, out, **options)
    return out


def same(a: jiffy.Model, b: jiffy.Model) -> bool:
    return np.array_equal(a.logits(IDS), b.logits(IDS))


@pytest.mark.parametrize("weights", [None, *_core.format_names()])
def test_the_same_bits(tmp_path, weights):
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512, bias=True, tied=weights != "i4")
    out = packed(tmp_path, tmp_path / "m", weights=weights)
    fresh, again = jiffy.load(tmp_path / "m", weights=weights), jiffy.load(out)
    assert same(fresh, again) and same(fresh, jiffy.load(out, fuse=False, n_threads=1))
    assert again.info() == {**fresh.info(), "path": str(out)}
    assert again.config == fresh.config


def test_scales_in_f32_and_another_head(tmp_path):
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512, tied=False, dtype="f32")
    entry = open_checkpoint(tmp_path / "m").tensors["layers.0.mlp.down_proj.weight"]
    with open(entry.path, "r+b") as file:
        values = np.fromfile(file, np.float32, offset=entry.offset, count=entry.n_bytes // 4) * np.float32(1e-9)
        file.seek(entry.offset)
        file.write(values.tobytes())
    out = packed(tmp_path, tmp_path / "m", weights="i4", head="i8")
    assert same(jiffy.load(tmp_path / "m", weights="i4", head="i8"), jiffy.load(out))


@pytest.mark.parametrize("rope", ROPES)
def test_every_context_that_the_model_has(tmp_path, rope):
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512, rope_scaling=ROPES[rope])
    out = packed(tmp_path, tmp_path / "m")
    for context in (16, 2048):
        assert same(jiffy.load(tmp_path / "m", context=context), jiffy.load(out, context=context))
    longest = jiffy.load(out).config.context_length
    with pytest.raises(ParameterError, match="context: expected at most"):
        jiffy.load(out, context=longest + 1)


def test_a_rope_of_one_context(tmp_path):
    """Dynamic scaling has other frequencies for each context."""
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    out = packed(tmp_path, tmp_path / "m", context=4096)
    assert same(jiffy.load(tmp_path / "m", context=4096), jiffy.load(out))
    with pytest.raises(ParameterError, match="context: expected 4096, for which"):
        jiffy.load(out, context=100)


@pytest.mark.parametrize("dtype", ["q4_0", "q4_1", "q8_0"])
def test_gguf_with_its_tokenizer(tmp_path, dtype):
    source = tmp_path / "m.gguf"
    tiny.write_gguf_llama(source, dtype=dtype, vocab_size=512, chat_template="{{ messages[0].content }}")
    out = packed(tmp_path, source)
    fresh, again = jiffy.load(source), jiffy.load(out)
    assert same(fresh, again)
    assert again.tokenizer.encode("ab<|eos|>") == fresh.tokenizer.encode("ab<|eos|>")
    assert again.tokenizer.chat_template == fresh.tokenizer.chat_template
    said = [{"role": "user", "content": "hello"}]
    assert again.chat(said, max_tokens=4).text == fresh.chat(said, max_tokens=4).text


def test_nothing_else_is_needed(tmp_path):
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512)
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    fresh = jiffy.load(tmp_path / "m")
    out = packed(tmp_path, tmp_path / "m").rename(tmp_path / "alone")
    shutil.rmtree(tmp_path / "m")
    again = jiffy.load(out)
    assert same(fresh, again)
    assert again.generate("hello", max_tokens=6).token_ids == fresh.generate("hello", max_tokens=6).token_ids
    assert again.tokenizer.chat_template == "{{ messages[0].content }}"


def test_other_readers_of_safetensors_open_it(tmp_path):
    tiny.write_hf_llama(tmp_path / "m")
    out = packed(tmp_path, tmp_path / "m")
    with safe_open(out, framework="np") as file:
        names = set(file.keys())
        assert {"program", "config", "tokenizer.json", "embed_tokens.weight"} <= names
        assert file.metadata()["format"] == "jiffy"
    raw = out.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert (8 + length) % 4096 == 0
    assert all(info["data_offsets"][0] % 4096 == 0 for name, info in header.items() if name != "__metadata__")


def test_interleaved_pairs_stay_so(tmp_path):
    """Gate and up are one tensor of the file, in one stream of memory."""
    tiny.write_hf_llama(tmp_path / "m")
    with safe_open(packed(tmp_path, tmp_path / "m", weights="i4"), framework="np") as file:
        assert "layers.0.mlp.gate_proj.weight+layers.0.mlp.up_proj.weight" in file.keys()  # noqa: SIM118


def test_check_compares_it_with_its_source(tmp_path):
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512)
    model = jiffy.load(packed(tmp_path, tmp_path / "m", weights="i4"))
    report = check(model, IDS, against=tmp_path / "m")
    assert report.first_bad is None and len(report.parts) == 4
    with pytest.raises(Unsupported, match="expected the file or folder that it was packed from"):
        check(model, IDS)


def test_formats_are_decided(tmp_path):
    tiny.write_hf_llama(tmp_path / "m")
    out = packed(tmp_path, tmp_path / "m", weights="i4")
    for name in ("weights", "head"):
        with pytest.raises(ParameterError, match=f"{name}: expected None: a packed file has its formats"):
            jiffy.load(out, **{name: "i8"})
    with pytest.raises(Unsupported, match="a packed file"):
        jiffy.pack(out, tmp_path / "again.jiffy")


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    tiny.write_hf_llama(tmp_path / "m")
    (tmp_path / "taken").mkdir()
    for out in (tmp_path / "nowhere" / "x", tmp_path / "taken"):
        with pytest.raises(FormatError, match="a file that can be written"):
            jiffy.pack(tmp_path / "m", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "taken"]


def test_checksums_see_every_bit():
    rng = np.random.default_rng(0)
    for n in (0, 1, 7, 8, 63, 64, 65, 1000):
        data = bytearray(rng.bytes(n))
        expected = _core.checksum(bytes(data))
        assert _core.checksum(bytes(data) + b"\0") != expected
        for bit in range(8 * n):
            data[bit // 8] ^= 1 << bit % 8
            assert _core.checksum(bytes(data)) != expected
            data[bit // 8] ^= 1 << bit % 8


def test_the_layout_has_a_version(tmp_path):
    """Who changes how weights are packed has to change csrc/quant/layout_version.h, then these: packed files from
    before would otherwise be read as if they were new."""
    tiny.write_hf_llama(tmp_path / "m")
    sums = {}
    for name in _core.format_names():
        with safe_open(packed(tmp_path, tmp_path / "m", weights=name), framework="np") as file:
            pair = file.get_tensor("layers.0.mlp.gate_proj.weight+layers.0.mlp.up_proj.weight")
        sums[name] = _core.checksum(pair.tobytes()) % 2**32
    assert (_core.LAYOUT_VERSION, sums) == (5, _LAYOUT_5)


_LAYOUT_5 = {
    "f32": 1696400043,
    "bf16": 3988899126,
    "i8": 2054125886,
    "i8a": 3695806105,
    "i8g32": 2517104926,
    "i8g32a": 911540953,
    "i4": 3538602217,
    "i4a": 3465792354,
    "i4g64": 3358891890,
    "i4g64a": 2409642009,
    "i4g128": 837494266,
    "i4g128a": 1861441907,
}
