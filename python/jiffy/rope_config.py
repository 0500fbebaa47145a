"""Which rope a model's file asks for: config.json of transformers 4 and 5, and GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Callable

from .errors import FormatError, Unsupported, shown
from .fields import Fields
from .gguf import GGUFFile
from .rope import DivisorScaling, DynamicScaling, LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

MAX_CONTEXT = 1 << 30

_DEFAULT_THETA = 10_000.0
_LOW, _HIGH = 1e-3, 1e6  # of factors: tables stay finite within them, and no model comes near
_DIVISORS = "rope_freqs.weight"


def hf_rope(fields: Fields, head_dim: int, context_length: int) -> tuple[float, RopeScaling]:
    """Theta and scaling, from `rope_scaling` (transformers 4) or, where that is empty, `rope_parameters` (5).

    Raises FormatError for numbers that are missing, absurd or contradictory; Unsupported for other kinds.
    """
    rope = fields.inner("rope_parameters" if fields.get("rope_scaling") in (None, {}) else "rope_scaling")
    for some in (rope, fields):
        some.only("partial_rotary_factor", (1, 1.0), default=1.0)
    for layer_type in ("full_attention", "sliding_attention"):
        rope.only(layer_type, (None,))
    theta = fields.number("rope_theta", 1.0, math.inf, default=_DEFAULT_THETA)
    theta = rope.number("rope_theta", 1.0, math.inf, default=theta)
    key = "type" if rope.get("rope_type") is None else "rope_type"
    kind = rope.text(key, default="default")
    if kind not in _HF_KINDS:
        raise Unsupported(rope.place(key), expected="one of " + ", ".join(_HF_KINDS), found=shown(kind))
    return theta, _HF_KINDS[kind](rope, head_dim, context_length)


def gguf_rope(file: GGUFFile, fields: Fields, head_dim: int, context_length: int) -> tuple[float, RopeScaling]:
    """Theta and scaling as llama.cpp reads them: `rope.scaling.*` of the architecture, or divisors in a tensor.

    Raises FormatError, Unsupported.
    """
    rope = fields.below(fields.text("general.architecture") + ".rope.")
    theta = rope.number("freq_base", 1.0, math.inf, default=_DEFAULT_THETA)
    for key in ("scaling.yarn_log_multiplier", "scaling.yarn_ext_factor", "scaling.yarn_attn_factor"):
        neutral = 0.0 if key.endswith("multiplier") else 1.0
        rope.only(key, (neutral,), default=neutral)
    scaling = _gguf_scaling(rope, context_length)
    if _DIVISORS not in file.tensors:
        return theta, scaling
    if type(scaling) is not RopeScaling:
        raise Unsupported(rope.place("scaling.type"), expected=f"no other scaling beside {_DIVISORS}", found="one")
    return theta, DivisorScaling(_divisors(file, head_dim))


def _linear(rope: Fields, head_dim: int, context_length: int) -> RopeScaling:
    return LinearScaling(rope.number("factor", _LOW, _HIGH))


def _dynamic(rope: Fields, head_dim: int, context_length: int) -> RopeScaling:
    if head_dim == 2:
        raise Unsupported(rope.place("rope_type"), expected="heads of more than 2 dimensions", found='"dynamic" and 2')
    rope.only("original_max_position_embeddings", (context_length,), default=context_length)
    return DynamicScaling(rope.number("factor", _LOW, _HIGH), context_length)


def _llama3(rope: Fields, head_dim: int, context_length: int) -> RopeScaling:
    low = rope.number("low_freq_factor", _LOW, _HIGH)
    return Llama3Scaling(
        factor=rope.number("factor", _LOW, _HIGH),
        low_freq_factor=low,
        high_freq_factor=rope.number("high_freq_factor", low, _HIGH),
        original=rope.integer("original_max_position_embeddings", MAX_CONTEXT),
    )


def _yarn(rope: Fields, head_dim: int, context_length: int) -> RopeScaling:
    factor = rope.number("factor", _LOW, _HIGH)
    mscale, all_dims = (_if_set(rope, key, 0.0) for key in ("mscale", "mscale_all_dim"))
    default = YarnScaling.default_attention_factor(factor)
    if mscale and all_dims:
        both = [YarnScaling.default_attention_factor(factor, scale) for scale in (mscale, all_dims)]
        default = both[0] / both[1]
    return YarnScaling(
        factor=factor,
        original=rope.integer("original_max_position_embeddings", MAX_CONTEXT),
        attention_factor=rope.number("attention_factor", 0.0, _HIGH, default=default),
        truncate=rope.boolean("truncate", default=True),
        **_betas(rope, "beta_"),
    )


_HF_KINDS: dict[str, Callable[[Fields, int, int], RopeScaling]] = {
    "default": lambda rope, head_dim, context_length: RopeScaling(),
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}


def _gguf_scaling(rope: Fields, context_length: int) -> RopeScaling:
    factor = _if_set(rope, "scaling.factor", _if_set(rope, "scale_linear", 1.0))
    kind = rope.text("scaling.type", default="linear")
    if kind == "yarn":
        sharper = rope.number("scaling.attn_factor", 0.0, _HIGH, default=1.0)
        return YarnScaling(
            factor=factor,
            original=rope.integer("scaling.original_context_length", MAX_CONTEXT, default=context_length),
            attention_factor=sharper * YarnScaling.default_attention_factor(factor),
            **_betas(rope, "scaling.yarn_beta_"),
        )
    rope.only("scaling.type", ("none", "linear"), default=kind)
    rope.only("scaling.attn_factor", (1.0,), default=1.0)
    return LinearScaling(factor) if kind == "linear" and factor != 1.0 else RopeScaling()


def _betas(rope: Fields, prefix: str) -> dict[str, float]:
    slow = _if_set(rope, f"{prefix}slow", 1.0)
    fast = _if_set(rope, f"{prefix}fast", 32.0)
    if slow > fast:
        raise rope.error(f"{prefix}slow", f"at most {prefix}fast, {fast:g}", slow)
    return {"beta_fast": fast, "beta_slow": slow}


def _if_set(rope: Fields, key: str, default: float) -> float:
    """0 means "not set" here, to transformers as to llama.cpp."""
    return default if rope.get(key) in (0, None) else rope.number(key, _LOW, _HIGH)


def _divisors(file: GGUFFile, head_dim: int) -> tuple[float, ...]:
    import numpy as np

    entry = file.tensors[_DIVISORS]
    where, shape = f"{file.path.name} {_DIVISORS}", (head_dim // 2,)
    if entry.dtype != "f32" or entry.shape != shape:
        raise FormatError(where, expected=f"f32 {list(shape)}", found=f"{entry.dtype} {list(entry.shape)}")
    values = entry.read_rows(0, entry.n_rows).reshape(-1).view("<f4").astype(np.float64)
    wrong = ~((values > _LOW) & (values < _HIGH))
    if wrong.any():
        found = f"{values[wrong][0]:g} at {int(wrong.argmax())}"
        raise FormatError(where, expected=f"numbers between {_LOW:g} and {_HIGH:g}", found=found)
    return tuple(values.tolist())
