"""Hostile config.json files and their like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .case import Case, config, folder_instead, hf_folder, pipe_instead, without

_DEEP = b'{"a":' + b"[" * 200_000


def _text(raw: bytes, name: str = "config.json") -> Callable[[Path], Path]:
    def make(below: Path) -> Path:
        folder = hf_folder(below)
        (folder / name).write_bytes(raw)
        return folder

    return make


def _changed(name: str, message: str, **changes: object) -> Case:
    return Case(f"config-{name}", lambda below: config(below, **changes), message)


CONFIGS = [
    Case("config-missing", lambda below: without(below, "config.json"), "config.json: expected a readable file"),
    Case("config-folder", lambda below: folder_instead(below, "config.json"), "config.json: expected a readable file"),
    Case("config-pipe", lambda below: pipe_instead(below, "config.json"), "config.json: expected a readable file"),
    Case("config-empty", _text(b""), "config.json: expected JSON"),
    Case("config-list", _text(b"[]"), "config.json: expected a JSON object, found list"),
    Case("config-null", _text(b"null"), "config.json: expected a JSON object, found NoneType"),
    Case("config-not-utf8", _text(b'{"model_type": "\xff"}'), "config.json: expected UTF-8, found byte 0xff at 16"),
    Case("config-utf16", _text('{"model_type": "llama"}'.encode("utf-16")), "config.json: expected UTF-8"),
    Case("config-surrogate", _text(rb'{"x": ["\uD83D\uDE00", "\uDE00"]}'), "found half of a surrogate pair, U+DE00"),
    Case("config-deep", _text(_DEEP), "config.json: expected JSON, found nesting too deep"),
    Case("config-nan", _text(b'{"rope_theta": NaN}'), "config.json: expected finite numbers, found NaN"),
    Case("config-infinity", _text(b'{"rope_theta": -Infinity}'), "config.json: expected finite numbers"),
    Case("config-1e999", _text(b'{"rope_theta": 1e999}'), "config.json: expected finite numbers, found 1e999"),
    Case("config-twice", _text(b'{"a": 1, "b": 2, "a": 3}'), 'config.json: expected every key once, found "a" 2 times'),
    Case("config-huge", _text(b" " * 10_000_001 + b"{}"), "config.json: expected at most 10000000 bytes"),
    Case("config-digits", _text(b'{"hidden_size": 1' + b"0" * 1_000_000 + b"}"), "expected numbers within 64 bits"),
    Case("generation-list", _text(b"[]", "generation_config.json"), "generation_config.json: expected a JSON object"),
    Case("generation-eos", _text(b'{"eos_token_id": [2, 259]}', "generation_config.json"), "below vocab_size 259"),
    _changed(
        "type-unknown", 'config.json model_type: expected one of llama, mistral, qwen2, found "x"', model_type="x"
    ),
    _changed("type-missing", "config.json model_type: expected a string, found nothing", model_type=...),
    _changed("type-list", "config.json model_type: expected a string, found a list of 1", model_type=["llama"]),
    _changed("dim-missing", "config.json hidden_size: expected an integer from 1 to", hidden_size=...),
    _changed("dim-zero", "config.json hidden_size", hidden_size=0),
    _changed("dim-huge", "config.json hidden_size", hidden_size=1 << 40),
    _changed(
        "dim-bool", "config.json hidden_size: expected an integer from 1 to 1048576, found True", hidden_size=True
    ),
    _changed("dim-float", "config.json hidden_size", hidden_size=32.0),
    _changed(
        "dim-text", 'config.json hidden_size: expected an integer from 1 to 1048576, found "32"', hidden_size="32"
    ),
    _changed("dim-other", "embed_tokens.weight: expected [259, 64], found [259, 32]", hidden_size=64),
    _changed("ffn-other", "layers.0.mlp.gate_proj.weight: expected [96, 32], found [64, 32]", intermediate_size=96),
    _changed(
        "heads-divide", "config.json head_dim: expected", num_attention_heads=3, num_key_value_heads=1, head_dim=...
    ),
    _changed("heads-more", "config.json head_dim: expected", num_attention_heads=64, head_dim=...),
    _changed("kv-heads-divide", "num_key_value_heads: expected a divisor of the 4 heads", num_key_value_heads=3),
    _changed("kv-heads-more", "num_key_value_heads: expected a divisor of the 4 heads", num_key_value_heads=8),
    _changed("head-dim-odd", "config.json head_dim: expected an even number, for rope, found 7", head_dim=7),
    _changed("layers-zero", "config.json num_hidden_layers: expected an integer from 1", num_hidden_layers=0),
    _changed("layers-10^9", "config.json num_hidden_layers", num_hidden_layers=10**9),
    _changed("layers-negative", "config.json num_hidden_layers", num_hidden_layers=-1),
    _changed("vocab-small", "config.json bos_token_id: expected token ids below vocab_size 256", vocab_size=256),
    _changed("vocab-other", "embed_tokens.weight: expected [300, 32], found [259, 32]", vocab_size=300),
    _changed("eos-large", "config.json eos_token_id: expected token ids below vocab_size 259", eos_token_id=[1, 259]),
    _changed("eos-negative", "config.json eos_token_id", eos_token_id=-1),
    _changed("eos-text", "config.json eos_token_id", eos_token_id="2"),
    _changed("theta-low", "config.json rope_theta: expected a number between 1 and inf", rope_theta=0.5),
    _changed("theta-text", "config.json rope_theta", rope_theta="1e4"),
    _changed("eps-zero", "config.json rms_norm_eps: expected a number between 0 and 1", rms_norm_eps=0),
    _changed("eps-large", "config.json rms_norm_eps", rms_norm_eps=1),
    _changed("context-zero", "config.json max_position_embeddings", max_position_embeddings=0),
    _changed("act", 'config.json hidden_act: expected "silu", found "gelu"', hidden_act="gelu"),
    _changed("tied-text", "config.json tie_word_embeddings: expected true or false", tie_word_embeddings="no"),
    _changed("rope-list", "config.json rope_parameters: expected an object", rope_parameters=[1]),
    _changed("rope-partial", "partial_rotary_factor: expected 1 or 1.0, found 0.5", partial_rotary_factor=0.5),
    _changed("rope-nested", "rope_parameters full_attention: expected nothing", rope_parameters={"full_attention": {}}),
    _changed("window-of-llama", "config.json sliding_window: expected nothing, found 128", sliding_window=128),
    _changed("quantised", "config.json quantization_config: expected nothing", quantization_config={"bits": 4}),
    _changed("bias-missing", "q_proj.bias: expected [32], found no such tensor", attention_bias=True),
]

# What the tokenizer reads, so that only a whole load finds it.
TOKENIZERS = [
    Case("tokenizer-config", _text(b'{"add_bos_token": 1}', "tokenizer_config.json"), "add_bos_token: expected true"),
]

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_BIG = 10**30  # beyond every bound, and beyond 64 bits


def _rope(name: str, message: str, good: dict[str, object], **changes: object) -> Case:
    """rope_scaling with one change to a good one; `...` takes a key out."""
    rope = {key: value for key, value in {**good, **changes}.items() if value is not ...}
    return _changed(f"rope-{name}", f"config.json rope_scaling {message}", rope_scaling=rope)


def _refused_factors(kind: str, good: dict[str, object], key: str = "factor") -> list[Case]:
    """Every number that is no factor."""
    wrong = {"missing": ..., "zero": 0, "negative": -4.0, "tiny": 1e-300, "huge": 1e300, "text": "4", "bool": True}
    wrong |= {"null": None, "list": [4.0]}
    return [
        _rope(f"{kind}-{key}-{name}", f"{key}: expected a number", good, **{key: value})
        for name, value in wrong.items()
    ]


def _refused_originals(kind: str, good: dict[str, object]) -> list[Case]:
    key = "original_max_position_embeddings"
    wrong = {"missing": ..., "zero": 0, "negative": -64, "fraction": 64.5, "huge": 1 << 40, "text": "64", "null": None}
    message = f"{key}: expected an integer from 1 to 1073741824"
    return [_rope(f"{kind}-original-{name}", message, good, **{key: value}) for name, value in wrong.items()]


ROPES = [
    _rope("unknown", "rope_type: expected one of default, linear, dynamic", {"rope_type": "x"}),
    _rope("unknown-old", 'type: expected one of default, linear, dynamic, llama3, yarn, found "su"', {"type": "su"}),
    _rope("longrope", "rope_type: expected one of", {"rope_type": "longrope", "short_factor": [1], "long_factor": [1]}),
    _rope("type-number", "rope_type: expected a string, found 1", {"rope_type": 1}),
    _rope("theta", "rope_theta: expected a number between 1 and inf", _YARN, rope_theta=0.0),
    *_refused_factors("linear", {"rope_type": "linear"}),
    *_refused_factors("dynamic", {"type": "dynamic"}),
    *_refused_factors("llama3", _LLAMA3),
    *_refused_factors("yarn", _YARN),
    *_refused_factors("llama3", _LLAMA3, "low_freq_factor"),
    *_refused_factors("llama3", _LLAMA3, "high_freq_factor"),
    *_refused_originals("llama3", _LLAMA3),
    *_refused_originals("yarn", _YARN),
    _rope("llama3-order", "high_freq_factor: expected a number between 4 and", _LLAMA3, low_freq_factor=4.0),
    _rope("dynamic-original", "original_max_position_embeddings: expected 2048, found 64", _YARN, rope_type="dynamic"),
    _rope("yarn-attention-zero", "attention_factor: expected a number between 0", _YARN, attention_factor=0),
    _rope("yarn-attention-negative", "attention_factor: expected a number", _YARN, attention_factor=-1.0),
    _rope("yarn-attention-huge", "attention_factor: expected a number", _YARN, attention_factor=1e300),
    _rope("yarn-mscale-negative", "mscale: expected a number between", _YARN, mscale=-1.0, mscale_all_dim=1.0),
    _rope("yarn-mscale-text", "mscale_all_dim: expected a number", _YARN, mscale=1.0, mscale_all_dim="1"),
    _rope("yarn-betas", "beta_slow: expected at most beta_fast, 0.5, found 1.0", _YARN, beta_fast=0.5),
    _rope("yarn-beta-negative", "beta_fast: expected a number between", _YARN, beta_fast=-32),
    _rope("yarn-beta-huge", "beta_slow: expected a number between", _YARN, beta_slow=1e300),
    _rope("yarn-truncate", "truncate: expected true or false, found 1", _YARN, truncate=1),
    _changed(
        "rope-nan", "config.json: expected finite numbers, found NaN", rope_scaling={**_YARN, "factor": float("nan")}
    ),
    _changed(
        "rope-inf", "config.json: expected finite numbers", rope_parameters={**_YARN, "attention_factor": float("inf")}
    ),
    _changed("rope-digits", "expected numbers within 64 bits", rope_scaling={**_YARN, "factor": _BIG}),
    _changed(
        "rope-small-heads",
        "expected heads of more than 2 dimensions",
        rope_scaling={"rope_type": "dynamic", "factor": 2.0},
        head_dim=2,
    ),
]

_MISTRAL = {"model_type": "mistral"}
_QWEN2 = {"model_type": "qwen2", "use_sliding_window": True}
_WINDOW = "config.json sliding_window: expected an integer from 1 to 1073741824"


def _layers(name: str, message: str, layer_types: object, **changes: object) -> Case:
    return _changed(f"layer-types-{name}", message, layer_types=layer_types, **{**_QWEN2, **changes})


WINDOWS = [
    _changed("window-zero", f"{_WINDOW}, found 0", sliding_window=0, **_MISTRAL),
    _changed("window-negative", f"{_WINDOW}, found -1", sliding_window=-1, **_MISTRAL),
    _changed("window-huge", _WINDOW, sliding_window=1 << 31, **_MISTRAL),
    _changed("window-fraction", _WINDOW, sliding_window=128.5, **_QWEN2),
    _changed("window-bool", f"{_WINDOW}, found True", sliding_window=True, **_QWEN2),
    _changed("window-text", _WINDOW, sliding_window="128", **_QWEN2),
    _changed("window-use", "use_sliding_window: expected true or false", use_sliding_window=1, model_type="qwen2"),
    _changed("window-layers", "max_window_layers: expected an integer from 0", max_window_layers=-1, **_QWEN2),
    _changed("window-layers-huge", "max_window_layers: expected an integer", max_window_layers=1 << 40, **_QWEN2),
    _layers("text", "config.json layer_types: expected a list of 2, the number of layers", "full_attention"),
    _layers("fewer", "layer_types: expected a list of 2, the number of layers, found a list of 1", ["full_attention"]),
    _layers("unknown", 'expected "full_attention" or "sliding_attention", found "x"', ["full_attention", "x"]),
    _layers("list", "layer_types: expected", ["full_attention", ["full_attention"]]),
    _layers(
        "no-window",
        "config.json sliding_window: expected the window that layer_types speaks of, found 128",
        ["full_attention", "sliding_attention"],
        use_sliding_window=False,
        sliding_window=128,
    ),
    _changed(
        "qwen2-biases", "q_proj.bias: expected [32], found no such tensor", model_type="qwen2", num_key_value_heads=2
    ),
    _changed("mistral-kv-heads", "num_key_value_heads: expected a divisor", num_key_value_heads=..., **_MISTRAL),
]
