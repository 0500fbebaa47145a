"""The parts that architectures are put together from; families differ by arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config
    from ..graph import Node, Trace
    from ..rope import RopeTables
    from ..weights import Weights


def self_attention(t: Trace, x: Node, c: Config, w: Weights, rope: RopeTables, *, layer: int) -> Node:
    """Causal grouped-query attention over the layer's KV cache (or its last positions), then the output projection."""
    q, k, v = (t.linear(x, *w.linear(f"{name}_proj")) for name in "qkv")
    q, k = t.rope(q, rope, n_heads=c.n_heads), t.rope(k, rope, n_heads=c.n_kv_heads)
    y = t.attention(q, k, v, layer=layer, n_heads=c.n_heads, n_kv_heads=c.n_kv_heads, window=c.windows[layer])
    return t.linear(y, *w.linear("o_proj"))


def gated_mlp(t: Trace, x: Node, w: Weights) -> Node:
    """down(silu(gate(x)) * up(x))."""
    gate, up = w.linear_pair("gate_proj", "up_proj")
    return t.linear(t.silu_mul(t.linear(x, *gate), t.linear(x, *up)), *w.linear("down_proj"))
