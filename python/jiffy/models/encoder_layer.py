"""A layer of an encoder: attention in both directions and an MLP, a sum behind each, and a LayerNorm before each or
behind each sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..rope import RopeTables
    from ..weights import Weights
    from .endings import Keep

    Linear = tuple[_core.Weight, np.ndarray | None]
    Norm = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class EncoderLayer:
    """The weights of a layer, each with its bias or None. attention_norm: None where nothing is normed before the
    attention. gate: None in a plain MLP."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    attention_norm: Norm | None
    gate: Linear | None
    up: Linear
    down: Linear
    mlp_norm: Norm

    @classmethod
    def read(cls, w: Weights, *, attention_normed: bool = True, gated: bool = False) -> EncoderLayer:
        attention = (w.linear(name) for name in "qkvo")
        norm = w.norm("attention_norm") if attention_normed else None
        gate, up = w.linear_pair("gate", "up") if gated else (None, w.linear("up"))
        return cls(*attention, norm, gate, up, w.linear("down"), w.norm("mlp_norm"))


def encoder_layer(
    t: Trace,
    x: Node,
    c: EncoderConfig,
    w: EncoderLayer,
    keep: Keep,
    *,
    norm_first: bool = False,
    rope: RopeTables | None = None,
    window: int = 0,
    bias: np.ndarray | None = None,
) -> Node:
    def normed(x: Node, norm: Norm | None, wanted: bool) -> Node:
        return t.layer_norm(x, *norm, c.norm_eps) if wanted and norm is not None else x

    h = normed(x, w.attention_norm, norm_first)
    q, k, v = (t.linear(h, *weights) for weights in (w.q, w.k, w.v))
    if rope is not None:
        q, k = t.rope(q, rope, n_heads=c.n_heads), t.rope(k, rope, n_heads=c.n_heads)
    heads = {"n_heads": c.n_heads, "n_kv_heads": c.n_heads}
    y = t.attention(q, k, v, layer=0, **heads, causal=False, window=window, bias=bias)
    x = normed(t.add(keep(x), t.linear(keep(y), *w.o)), w.attention_norm, not norm_first)
    h = _mlp(t, normed(x, w.mlp_norm, norm_first), c, w)
    return normed(t.add(x, t.linear(h, *w.down)), w.mlp_norm, not norm_first)


def _mlp(t: Trace, x: Node, c: EncoderConfig, w: EncoderLayer) -> Node:
    """f(up(x)), or f(gate(x)) * up(x)."""
    if w.gate is None:
        return t.activation(t.linear(x, *w.up), c.activation)
    return t.mul(t.activation(t.linear(x, *w.gate), c.activation), t.linear(x, *w.up))
