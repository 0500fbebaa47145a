"""ModernBERT (Warner et al. 2024): LayerNorm before each part, rope, GeGLU, and windows in most layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rope import RopeScaling, RopeTables
from .endings import all_rows

if TYPE_CHECKING:
    import numpy as np

    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights
    from .endings import Ending, Keep


@dataclass(frozen=True)
class _Layer:
    """The weights of a layer, each with its bias or None. attention_norm: None in the first layer."""

    attention_norm: tuple[np.ndarray, np.ndarray | None] | None
    q: tuple[_core.Weight, np.ndarray | None]
    k: tuple[_core.Weight, np.ndarray | None]
    v: tuple[_core.Weight, np.ndarray | None]
    o: tuple[_core.Weight, np.ndarray | None]
    mlp_norm: tuple[np.ndarray, np.ndarray | None]
    gate: tuple[_core.Weight, np.ndarray | None]
    up: tuple[_core.Weight, np.ndarray | None]
    down: tuple[_core.Weight, np.ndarray | None]

    @classmethod
    def read(cls, w: Weights, first: bool) -> _Layer:
        norm = None if first else w.norm("attention_norm")
        attention = (w.linear(name) for name in "qkvo")
        return cls(norm, *attention, w.norm("mlp_norm"), *w.linear_pair("gate", "up"), w.linear("down"))


def modernbert(t: Trace, c: EncoderConfig, w: Weights, table: _core.Weight, context: int) -> Ending:
    """Token ids -> all but the last layer of hidden rows [n_tokens, dim]."""
    ropes = {theta: RopeTables.make(context, c.head_dim, theta, RopeScaling()) for theta in set(c.rope_thetas)}
    x = t.mark("embeddings", t.layer_norm(t.embedding(table), *w.norm("embed_norm"), c.norm_eps))
    layers = [_Layer.read(w.at(f"layers.{i}"), first=i == 0) for i in range(c.n_layers)]
    final_norm = w.norm("final_norm")

    def layer(t: Trace, x: Node, i: int, keep: Keep) -> Node:
        return t.mark(f"layers.{i}", _layer(t, x, c, layers[i], ropes[c.rope_thetas[i]], c.windows[i], keep))

    for i in range(c.n_layers - 1):
        x = layer(t, x, i, all_rows)
    last = c.n_layers - 1
    return lambda t, keep: t.mark("final_norm", t.layer_norm(layer(t, x, last, keep), *final_norm, c.norm_eps))


def _layer(t: Trace, x: Node, c: EncoderConfig, w: _Layer, rope: RopeTables, window: int, keep: Keep) -> Node:
    normed = x if w.attention_norm is None else t.layer_norm(x, *w.attention_norm, c.norm_eps)
    q, k, v = (t.linear(normed, *weights) for weights in (w.q, w.k, w.v))
    q, k = t.rope(q, rope, n_heads=c.n_heads), t.rope(k, rope, n_heads=c.n_heads)
    y = t.attention(q, k, v, layer=0, n_heads=c.n_heads, n_kv_heads=c.n_heads, causal=False, window=window)
    x = t.add(keep(x), t.linear(keep(y), *w.o))
    normed = t.layer_norm(x, *w.mlp_norm, c.norm_eps)
    gated = t.mul(t.activation(t.linear(normed, *w.gate), c.activation), t.linear(normed, *w.up))
    return t.add(x, t.linear(gated, *w.down))
