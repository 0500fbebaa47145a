"""Qwen2 (biases of q, k and v) and Mistral, with and without sliding windows, against transformers."""

from __future__ import annotations

import pytest

import jiffy
import tiny
from compare import assert_close, assert_same
from jiffy.checkpoint import open_checkpoint
from jiffy.config import Config
from jiffy.errors import FormatError
from reference import SHARE, greedy, random_ids, reference, reference_logits

N_LAYERS = 3
N_TOKENS = 300

_WINDOW = {"use_sliding_window": True, "sliding_window": 40}
QWEN2 = {
    "tied": {},
    "untied": {"tied": False},
    "window_not_used": {"use_sliding_window": False, "sliding_window": 40, "max_window_layers": 1},
    "windows": {**_WINDOW, "max_window_layers": 0},
    "windows_in_later_layers": {**_WINDOW, "max_window_layers": 1, "tied": False},
    "windows_by_layer": {**_WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 80}},
    "head_dim": {"head_dim": 10},
}
WINDOWS = {
    "tied": (0, 0, 0),
    "untied": (0, 0, 0),
    "window_not_used": (0, 0, 0),
    "windows": (40, 40, 40),
    "windows_in_later_layers": (0, 40, 40),
    "windows_by_layer": (40, 0, 40),
    "yarn": (0, 0, 0),
    "head_dim": (0, 0, 0),
}
MISTRAL = {"no_window": None, "window_of_one": 1, "window": 33, "window_of_a_segment": 512, "window_of_all": 4096}


def write_qwen2(folder, **options: object) -> None:
    names = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    tiny.write_hf_llama(folder, **{"qkv_bias": True, "n_layers": N_LAYERS, **names, **options})


def write_mistral(folder, **options: object) -> None:
    names = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    tiny.write_hf_llama(folder, **{"n_layers": N_LAYERS, "tied": False, **names, **options})


def check_logits(folder, n_tokens: int = N_TOKENS) -> None:
    ids = random_ids(n_tokens)
    whole = jiffy.load(folder, weights="f32").logits(ids)
    assert_close(whole, reference_logits(reference(folder), ids), SHARE)
    assert_same(jiffy.load(folder, weights="f32", prefill_chunk=37).logits(ids), whole)


def check_greedy_tokens(folder) -> None:
    ids = random_ids(30)
    completion = jiffy.load(folder, weights="f32").generate(token_ids=ids, max_tokens=100, ignore_eos=True)
    assert completion.token_ids == greedy(reference(folder), ids, 100)


@pytest.mark.parametrize("name", QWEN2)
def test_qwen2(tmp_path, name):
    write_qwen2(tmp_path, **QWEN2[name])
    assert Config.from_hf(tmp_path).windows == WINDOWS[name]
    check_logits(tmp_path)


@pytest.mark.parametrize("name", ["tied", "windows_in_later_layers", "windows_by_layer"])
def test_qwen2_greedy_tokens(tmp_path, name):
    write_qwen2(tmp_path, **QWEN2[name])
    check_greedy_tokens(tmp_path)


@pytest.mark.parametrize("window", MISTRAL.values(), ids=list(MISTRAL))
def test_mistral(tmp_path, window):
    write_mistral(tmp_path, sliding_window=window)
    assert Config.from_hf(tmp_path).windows == (window or 0,) * N_LAYERS
    check_logits(tmp_path, 700)


def test_mistral_greedy_tokens(tmp_path):
    write_mistral(tmp_path, sliding_window=33)
    check_greedy_tokens(tmp_path)


def test_defaults_of_absent_keys(tmp_path):
    """transformers leaves out what its config class assumes; mistral has a window unless null stands there."""
    write_mistral(tmp_path)
    assert Config.from_hf(tmp_path).windows == (4096,) * N_LAYERS
    write_qwen2(tmp_path / "qwen2", use_sliding_window=True, n_layers=30)
    assert Config.from_hf(tmp_path / "qwen2").windows == (0,) * 28 + (4096,) * 2


def gguf_and_folder(folder, options: dict[str, object], metadata: dict[str, object]):
    sizes = {"dim": 48, "ffn_dim": 80, "n_heads": 3, "n_kv_heads": 1, "n_layers": N_LAYERS}
    write_qwen2(folder / "folder", **options)
    options = {key: value for key, value in options.items() if key == "tied"}
    tiny.write_gguf_llama(
        folder / "a.gguf", arch="qwen2", dtype="f32", qkv_bias=True, metadata=metadata, **sizes, **options
    )
    return folder / "a.gguf", folder / "folder"


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_gguf_is_the_folder(tmp_path, name):
    """q and k lie in rotate-half order in both."""
    paths = gguf_and_folder(tmp_path, QWEN2[name], {})
    ids = random_ids(N_TOKENS)
    file, folder = (jiffy.load(path).logits(ids) for path in paths)
    assert_same(file, folder)
    assert_close(file, reference_logits(reference(paths[1]), ids), SHARE)


def test_gguf_window(tmp_path):
    paths = gguf_and_folder(tmp_path, QWEN2["windows"], {"qwen2.attention.sliding_window": 40})
    ids = random_ids(N_TOKENS)
    file, folder = (jiffy.load(path).logits(ids) for path in paths)
    assert_same(file, folder)


def test_gguf_without_biases_is_refused(tmp_path):
    tiny.write_gguf_llama(tmp_path / "a.gguf", arch="qwen2")
    with pytest.raises(FormatError, match=r"layers\.0\.self_attn\.q_proj\.bias: expected \[64\], found no such tensor"):
        open_checkpoint(tmp_path / "a.gguf")


def test_gguf_in_four_bits(tmp_path):
    """The quantised file against its own dequantised weights in transformers' model."""
    sizes = {"dim": 64, "ffn_dim": 96, "n_heads": 4, "n_kv_heads": 2, "n_layers": N_LAYERS, "tied": False}
    weights = tiny.write_gguf_llama(tmp_path / "a.gguf", arch="qwen2", dtype="q4_0", qkv_bias=True, **sizes)
    write_qwen2(tmp_path / "folder", **sizes)
    raw = {tiny.hf_name(name): ("F32", list(value.shape), value.tobytes()) for name, value in weights.items()}
    tiny.write_safetensors(tmp_path / "folder" / "model.safetensors", raw)
    ids = random_ids(100)
    got = jiffy.load(tmp_path / "a.gguf", weights="f32").logits(ids)
    assert_close(got, reference_logits(reference(tmp_path / "folder"), ids), SHARE)
