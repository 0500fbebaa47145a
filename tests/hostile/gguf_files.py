"""Hostile GGUF files, made by overwriting fields of a good one (whose header the specification lays out like this):

u64 length and key, u32 type, value;  u64 length and tensor name, u32 n_dims, u64 dims[n_dims], u32 type, u64 offset.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .case import Case, gguf_file

_TOKENS = "tokenizer.ggml.tokens"
_Q = "blk.1.attn_q.weight"  # 2 dimensions: n_dims at 0, dims at 4, type at 20, offset at 24
_U32, _ARRAY, _STRING = 4, 9, 8


def _u32(value: int) -> bytes:
    return struct.pack("<I", value)


def _u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def _f32(text: str) -> bytes:
    return struct.pack("<f", float(text))


def _bytes(change: Callable[[bytes], bytes], **arguments: object) -> Callable[[Path], Path]:
    def make(below: Path) -> Path:
        path = gguf_file(below, **arguments)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def _at(offset: int, new: bytes) -> Callable[[Path], Path]:
    return _bytes(lambda file: file[:offset] + new + file[offset + len(new) :])


def _after(name: str, skip: int, new: bytes) -> Callable[[Path], Path]:
    """Overwrites what begins `skip` bytes after the key or tensor name."""
    field = _u64(len(name)) + name.encode()

    def change(file: bytes) -> bytes:
        assert file.count(field) == 1, name
        at = file.index(field) + len(field) + skip
        return file[:at] + new + file[at + len(new) :]

    return _bytes(change)


def _named(old: bytes, new: bytes) -> Callable[[Path], Path]:
    """Overwrites a key or a name with another of the same length."""
    assert len(old) == len(new)
    return _bytes(lambda file: file.replace(old, new, 1))


def _more(key: str, value: str | int | float | bool) -> Callable[[Path], Path]:
    return lambda below: gguf_file(below, metadata={key: value})


def _two_gigabytes_of_nothing(below: Path) -> Path:
    """A sparse file that claims a string of 2 GB."""
    path = _after("general.architecture", 4, _u64(2_000_000_000))(below)
    with path.open("r+b") as file:
        file.truncate(2_100_000_000)
    return path


GGUFS = [
    Case("gguf-missing", lambda below: below / "none.gguf", "none.gguf: expected a readable file, found No such file"),
    Case("gguf-empty", _bytes(lambda file: b""), "model.gguf magic"),
    Case("gguf-magic", _at(0, b"GGML"), 'magic: expected a GGUF file, which begins with "GGUF", found "GGML"'),
    Case("gguf-version-1", _at(4, _u32(1)), "model.gguf version: expected 2 or 3, little-endian, found 1"),
    Case("gguf-version-9", _at(4, _u32(9)), "model.gguf version: expected 2 or 3"),
    Case("gguf-big-endian", _at(4, _u32(3)[::-1]), "little-endian, found big-endian version 3"),
    Case("gguf-tensors-2^64-1", _at(8, b"\xff" * 8), "model.gguf n_tensors: expected at most 131072"),
    Case("gguf-tensors-more", _at(8, _u64(1000)), "model.gguf tensor 20: expected a name, found none"),
    Case("gguf-tensors-none", _at(8, _u64(0)), "embed_tokens.weight: expected [259, 32], found no such tensor"),
    Case("gguf-pairs-2^63", _at(16, _u64(1 << 63)), "model.gguf n_pairs: expected at most 131072"),
    Case("gguf-pairs-more", _at(16, _u64(100)), "model.gguf"),
    Case("gguf-pairs-none", _at(16, _u64(0)), "model.gguf"),
    Case("gguf-header-truncated", _bytes(lambda file: file[:1000]), f"model.gguf {_TOKENS}"),
    Case(
        "gguf-data-truncated",
        _bytes(lambda file: file[:-1000]),
        "model.gguf blk.1.ffn_down.weight: expected an end within",
    ),
    Case("gguf-key-long", _at(24, _u64(1 << 40)), "model.gguf key 0: expected a string of at most 65535 bytes"),
    Case("gguf-key-not-utf8", _named(b"llama.block_count", b"llama.block_c\xffunt"), "expected UTF-8, found byte 0xff"),
    Case("gguf-key-twice", _named(b"ggml.bos_token_id", b"ggml.eos_token_id"), "eos_token_id: expected every key once"),
    Case("gguf-type-13", _after("general.architecture", 0, _u32(13)), "expected a value type from 0 to 12, found 13"),
    Case("gguf-string-2^63", _after("general.architecture", 4, _u64(1 << 63)), "architecture: expected a string"),
    Case("gguf-string-past-end", _after("general.architecture", 4, _u64(1 << 20)), "general.architecture: expected at"),
    Case("gguf-string-2-gb", _two_gigabytes_of_nothing, "general.architecture: expected a string of at most"),
    Case("gguf-string-not-utf8", _after("general.architecture", 12, b"\xff"), "general.architecture: expected UTF-8"),
    Case("gguf-bool-2", _after("tokenizer.ggml.add_bos_token", 4, b"\2"), "expected booleans of 0 or 1, found 2"),
    Case("gguf-nested-array", _after(_TOKENS, 4, _u32(_ARRAY)), "expected an array of numbers or strings"),
    Case("gguf-array-type", _after(_TOKENS, 4, _u32(99)), f"{_TOKENS}: expected a value type from 0 to 12, found 99"),
    Case("gguf-array-2^63", _after(_TOKENS, 8, _u64(1 << 63)), f"{_TOKENS}: expected at most"),
    Case("gguf-array-past-end", _after(_TOKENS, 8, _u64(1 << 26)), f"{_TOKENS}: expected at most"),
    Case("gguf-array-more", _after(_TOKENS, 8, _u64(500)), "model.gguf"),
    Case("gguf-token-2^64-1", _after(_TOKENS, 16, b"\xff" * 8), f"{_TOKENS}[0]: expected at most"),
    Case("gguf-token-not-utf8", _after(_TOKENS, 24, b"\xff"), f"{_TOKENS}[0]: expected UTF-8, found byte 0xff at 0"),
    Case("gguf-tokens-numbers", _after("tokenizer.ggml.token_type", 4, _u32(10)), "model.gguf"),
    Case("gguf-tokens-missing", _named(_TOKENS.encode(), b"tokenizer.ggml.nekots"), f"{_TOKENS}: expected an array of"),
    Case("gguf-alignment-0", _more("general.alignment", 0), "general.alignment: expected a power of two from 8"),
    Case("gguf-alignment-48", _more("general.alignment", 48), "general.alignment: expected a power of two"),
    Case("gguf-alignment-2^31", _more("general.alignment", 1 << 31), "general.alignment: expected a power of two"),
    Case("gguf-alignment-text", _more("general.alignment", "32"), "general.alignment: expected a power of two"),
    Case("gguf-name-twice", _named(b"blk.1.attn_k.weight", _Q.encode()), f"{_Q}: expected every tensor once"),
    Case("gguf-name-long", _after("token_embd.weight", 32, _u64(65)), "expected a string of at most 64 bytes"),
    Case("gguf-name-not-utf8", _named(_Q.encode(), b"blk.1.attn_\xff.weight"), "expected UTF-8"),
    Case("gguf-dims-0", _after(_Q, 0, _u32(0)), f"{_Q}: expected 1 to 4 dimensions, found 0"),
    Case("gguf-dims-5", _after(_Q, 0, _u32(5)), f"{_Q}: expected 1 to 4 dimensions, found 5"),
    Case("gguf-dims-2^32-1", _after(_Q, 0, b"\xff" * 4), f"{_Q}: expected 1 to 4 dimensions"),
    Case("gguf-dim-0", _after(_Q, 4, _u64(0)), f"{_Q}: expected positive dimensions"),
    Case("gguf-dim-odd", _after(_Q, 4, _u64(33)), f"{_Q}: expected rows of a multiple of 32 values (q4_0), found 33"),
    Case("gguf-dim-overflow", _after(_Q, 4, _u64(1 << 63) * 2), f"{_Q}: expected at most"),
    Case("gguf-dim-wraps-to-0", _after(_Q, 4, _u64(1 << 32) * 2), f"{_Q}: expected at most"),
    Case("gguf-dims-other", _after(_Q, 4, _u64(64) + _u64(16)), "q_proj.weight: expected [32, 32], found [16, 64]"),
    Case("gguf-type-i8", _after(_Q, 20, _u32(24)), "found I8"),
    Case("gguf-type-999", _after(_Q, 20, _u32(999)), f"{_Q}: expected a tensor type from 0 to 41, found 999"),
    Case("gguf-offset-odd", _after(_Q, 24, _u64(33)), f"{_Q}: expected an offset aligned to 32, found 33"),
    Case("gguf-offset-overlap", _after(_Q, 24, _u64(32)), ": expected an offset of at least"),
    Case("gguf-offset-past-end", _after(_Q, 24, _u64(1 << 40)), f"{_Q}: expected an end within"),
    Case("gguf-offset-2^64-32", _after(_Q, 24, _u64((1 << 64) - 32)), f"{_Q}: expected an end within"),
    Case("gguf-norm-quantised", _after("output_norm.weight", 12, _u32(2)), "norm.weight: expected a vector of f32"),
    Case(
        "gguf-arch-unknown", _after("general.architecture", 12, b"bloom"), 'expected one of llama, qwen2, found "bloom"'
    ),
    Case("gguf-layers-0", _after("llama.block_count", 4, _u32(0)), "llama.block_count: expected an integer from 1"),
    Case("gguf-layers-10^9", _after("llama.block_count", 4, _u32(10**9)), "llama.block_count: expected an integer"),
    Case("gguf-layers-fewer", _after("llama.block_count", 4, _u32(1)), "in a llama of 1 layers"),
    Case("gguf-layers-more", _after("llama.block_count", 4, _u32(3)), "layers.2.input_layernorm.weight: expected [32]"),
    Case("gguf-heads", _after("llama.attention.head_count", 4, _u32(3)), "head_count_kv: expected a divisor of the 3"),
    Case(
        "gguf-eps-nan", _after("llama.attention.layer_norm_rms_epsilon", 4, _f32("nan")), "epsilon: expected a number"
    ),
    Case("gguf-theta-inf", _after("llama.rope.freq_base", 4, _f32("inf")), "llama.rope.freq_base"),
    Case("gguf-vocab", _after("llama.vocab_size", 4, _u32(260)), "vocab_size: expected 259, the number of tokens"),
    Case("gguf-eos", _after("tokenizer.ggml.eos_token_id", 4, _u32(259)), "expected token ids below vocab_size 259"),
    Case("gguf-rope-dims", _after("llama.rope.dimension_count", 4, _u32(4)), "dimension_count: expected 8, found 4"),
    Case("gguf-experts", _more("llama.expert_count", 8), "llama.expert_count: expected 0, found 8"),
    Case("gguf-qk-norm", _named(b"blk.1.attn_norm.weight", b"blk.1.attn_mmmm.weight"), "input_layernorm.weight"),
]

_FREQS = "rope_freqs.weight"
_SCALING = "llama.rope.scaling"
_WINDOW = "llama.attention.sliding_window"


def _freqs(values: list[float], dtype: type = np.float32) -> Callable[[Path], Path]:
    """Heads have 8 dimensions, so 4 divisors are right."""
    return lambda below: gguf_file(below, rope_freqs=np.array(values, dtype))


def _scaling(name: str, message: str, **keys: str | int | float) -> Case:
    metadata = {f"{_SCALING}.{key}": value for key, value in keys.items()}
    return Case(f"gguf-rope-{name}", lambda below: gguf_file(below, metadata=metadata), f"{_SCALING}.{message}")


GGUF_ROPES = [
    Case("gguf-freqs-fewer", _freqs([1, 1, 1]), f"{_FREQS}: expected f32 [4], found f32 [3]"),
    Case("gguf-freqs-more", _freqs([1] * 8), f"{_FREQS}: expected f32 [4], found f32 [8]"),
    Case("gguf-freqs-f16", _freqs([1] * 4, np.float16), f"{_FREQS}: expected f32 [4], found f16 [4]"),
    Case("gguf-freqs-zero", _freqs([1, 1, 0, 1]), f"{_FREQS}: expected numbers between 0.001 and 1e+06, found 0 at 2"),
    Case("gguf-freqs-negative", _freqs([1, 1, 1, -8]), f"{_FREQS}: expected numbers between"),
    Case("gguf-freqs-nan", _freqs([float("nan"), 1, 1, 1]), f"{_FREQS}: expected numbers between"),
    Case("gguf-freqs-inf", _freqs([1, float("inf"), 1, 1]), f"{_FREQS}: expected numbers between"),
    Case(
        "gguf-freqs-and-yarn",
        lambda below: gguf_file(
            below, rope_freqs=np.ones(4, np.float32), metadata={f"{_SCALING}.type": "yarn", f"{_SCALING}.factor": 2.0}
        ),
        "no other scaling beside rope_freqs.weight",
    ),
    Case("gguf-longrope", _named(b"blk.0.attn_output.weight", b"rope_factors_long.weight"), "expected no LongRoPE"),
    _scaling("longrope", 'type: expected "none" or "linear", found "longrope"', type="longrope"),
    _scaling("type-number", "type: expected a string, found 1", type=1),
    _scaling("factor-negative", "factor: expected a number between 0.001 and 1e+06", factor=-4.0),
    _scaling("factor-nan", "factor: expected a number", factor=float("nan")),
    _scaling("factor-inf", "factor: expected a number", factor=float("inf")),
    _scaling("factor-text", "factor: expected a number", factor="4"),
    _scaling("attention", "attn_factor: expected 1.0, found 2.0", attn_factor=2.0),
    _scaling("yarn-attention", "attn_factor: expected a number", type="yarn", factor=4.0, attn_factor=0.0),
    _scaling("yarn-original-0", "original_context_length: expected an", type="yarn", original_context_length=0),
    _scaling("yarn-betas", "yarn_beta_slow: expected at most", type="yarn", yarn_beta_fast=1.0, yarn_beta_slow=2.0),
    _scaling("yarn-log", "yarn_log_multiplier: expected 0.0", type="yarn", yarn_log_multiplier=0.1),
    _scaling("yarn-extrapolation", "yarn_ext_factor: expected 1.0", type="yarn", yarn_ext_factor=0.5),
    Case(
        "gguf-window-text", _more("llama.attention.sliding_window", "128"), "sliding_window: expected an integer from 0"
    ),
    Case("gguf-window-huge", _more("llama.attention.sliding_window", 1 << 31), "sliding_window: expected an integer"),
    Case(
        "gguf-window-pattern", _more("llama.attention.sliding_window_pattern", 2), "pattern: expected nothing, found 2"
    ),
]
