"""ModernBERT (Warner et al. 2024): LayerNorm before each part, rope, GeGLU, and windows in most layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rope import RopeScaling, RopeTables

if TYPE_CHECKING:
    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights


def modernbert(t: Trace, c: EncoderConfig, w: Weights, table: _core.Weight, context: int) -> Node:
    """Token ids -> hidden rows [n_tokens, dim]."""
    ropes = {theta: RopeTables.make(context, c.head_dim, theta, RopeScaling()) for theta in set(c.rope_thetas)}
    x = t.layer_norm(t.embedding(table), *w.norm("embed_norm"), c.norm_eps)
    for i in range(c.n_layers):
        layer = w.at(f"layers.{i}")
        normed = x if i == 0 else t.layer_norm(x, *layer.norm("attention_norm"), c.norm_eps)
        x = t.add(x, _attention(t, normed, c, layer, ropes[c.rope_thetas[i]], c.windows[i]))
        normed = t.layer_norm(x, *layer.norm("mlp_norm"), c.norm_eps)
        x = t.add(x, _mlp(t, normed, c, layer))
    return t.layer_norm(x, *w.norm("final_norm"), c.norm_eps)


def _attention(t: Trace, x: Node, c: EncoderConfig, w: Weights, rope: RopeTables, window: int) -> Node:
    q, k, v = (t.linear(x, *w.linear(name)) for name in "qkv")
    q, k = t.rope(q, rope, n_heads=c.n_heads), t.rope(k, rope, n_heads=c.n_heads)
    y = t.attention(q, k, v, layer=0, n_heads=c.n_heads, n_kv_heads=c.n_heads, causal=False, window=window)
    return t.linear(y, *w.linear("o"))


def _mlp(t: Trace, x: Node, c: EncoderConfig, w: Weights) -> Node:
    """down(f(gate(x)) * up(x))."""
    gate, up = w.linear_pair("gate", "up")
    return t.linear(t.mul(t.activation(t.linear(x, *gate), c.activation), t.linear(x, *up)), *w.linear("down"))
