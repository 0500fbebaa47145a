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
    Case("config-deep", _text(_DEEP), "config.json: expected JSON, found nesting too deep"),
    Case("config-nan", _text(b'{"rope_theta": NaN}'), "config.json: expected finite numbers, found NaN"),
    Case("config-infinity", _text(b'{"rope_theta": -Infinity}'), "config.json: expected finite numbers"),
    Case("config-1e999", _text(b'{"rope_theta": 1e999}'), "config.json: expected finite numbers, found 1e999"),
    Case("config-twice", _text(b'{"a": 1, "b": 2, "a": 3}'), 'config.json: expected every key once, found "a" 2 times'),
    Case("config-huge", _text(b" " * 10_000_001 + b"{}"), "config.json: expected at most 10000000 bytes"),
    Case("config-digits", _text(b'{"hidden_size": 1' + b"0" * 1_000_000 + b"}"), "expected numbers within 64 bits"),
    Case("generation-list", _text(b"[]", "generation_config.json"), "generation_config.json: expected a JSON object"),
    Case("generation-eos", _text(b'{"eos_token_id": [2, 259]}', "generation_config.json"), "below vocab_size 259"),
    Case("tokenizer-config", _text(b'{"add_bos_token": 1}', "tokenizer_config.json"), "add_bos_token: expected true"),
    _changed("type-unknown", 'config.json model_type: expected one of llama, found "x"', model_type="x"),
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
    _changed("rope-llama3", 'rope_scaling rope_type: expected "default"', rope_scaling={"rope_type": "llama3"}),
    _changed("rope-linear", 'rope_scaling type: expected "default", found "linear"', rope_scaling={"type": "linear"}),
    _changed("rope-list", "config.json rope_parameters: expected an object", rope_parameters=[1]),
    _changed("rope-partial", "partial_rotary_factor: expected 1 or 1.0, found 0.5", partial_rotary_factor=0.5),
    _changed("window", "config.json sliding_window: expected nothing, found 128", sliding_window=128),
    _changed("quantised", "config.json quantization_config: expected nothing", quantization_config={"bits": 4}),
    _changed("bias-missing", "q_proj.bias: expected [32], found no such tensor", attention_bias=True),
]
