"""Good headers before weights that are NaN or infinite: opening such a model works, packing it must not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jiffy.checkpoint import open_checkpoint

from .case import Case, gguf_file, hf_folder

_Q = "layers.1.self_attn.q_proj.weight"
_FINITE = "expected finite weights, found NaN or infinity"

# By dtype: little-endian bytes of values that are not finite. Of ggml's blocks it is the float16 scale at their begin
# that a file can spoil; q4_1 has a minimum behind it.
_SPOILED = {
    "f32": {"nan": b"\0\0\xc0\x7f", "inf": b"\0\0\x80\x7f", "-inf": b"\0\0\x80\xff", "signalling": b"\1\0\x80\x7f"},
    "f16": {"nan": b"\0\x7e", "inf": b"\0\x7c"},
    "bf16": {"nan": b"\xc0\x7f", "-inf": b"\x80\xff"},
    "q4_0": {"nan": b"\0\x7e", "-inf": b"\0\xfc"},
    "q4_1": {"nan": b"\0\x7e", "minimum": b"\0\x38\0\x7e"},
    "q8_0": {"nan": b"\0\x7e", "inf": b"\0\x7c"},
}
_HF_DTYPES = ("f32", "f16", "bf16")


def _spoil(path: Path, name: str, new: bytes, from_end: int = 0) -> Path:
    """Overwrites the first bytes of a tensor, or those that begin `from_end` bytes before its end."""
    entry = open_checkpoint(path).tensors[name]
    with entry.path.open("r+b") as file:
        file.seek(entry.offset + (entry.n_bytes - from_end if from_end else 0))
        file.write(new)
    return path


def _case(name: str, good: Callable[[Path], Path], tensor: str, new: bytes, from_end: int = 0) -> Case:
    return Case(f"weights-{name}", lambda below: _spoil(good(below), tensor, new, from_end), f"{tensor}: {_FINITE}")


def _hf(**arguments: object) -> Callable[[Path], Path]:
    return lambda below: hf_folder(below, **arguments)


def _gguf(**arguments: object) -> Callable[[Path], Path]:
    return lambda below: gguf_file(below, **arguments)


_NAN = _SPOILED["f32"]["nan"]

WEIGHTS: list[Case] = [
    *[
        _case(f"{container.__name__.strip('_')}-{dtype}-{kind}", container(dtype=dtype), _Q, new)
        for dtype, kinds in _SPOILED.items()
        for kind, new in kinds.items()
        for container in ((_hf, _gguf) if dtype in _HF_DTYPES else (_gguf,))
    ],
    _case("last", _hf(), "layers.1.mlp.down_proj.weight", _NAN, 4),
    _case("second-of-a-pair", _hf(), "layers.0.mlp.up_proj.weight", _NAN, 4),
    _case("embedding-q8_0", _gguf(embed_dtype="q8_0"), "embed_tokens.weight", _SPOILED["q8_0"]["nan"], 34),
    _case("head", _hf(tied=False), "lm_head.weight", _NAN),
    _case("bias", _hf(bias=True), "layers.0.self_attn.v_proj.bias", _NAN, 4),
    _case("norm", _hf(), "layers.1.input_layernorm.weight", _NAN),
    _case("norm-bf16", _hf(dtype="bf16"), "layers.0.post_attention_layernorm.weight", _SPOILED["bf16"]["-inf"]),
    _case("norm-gguf", _gguf(), "norm.weight", _SPOILED["f32"]["inf"], 4),
]
