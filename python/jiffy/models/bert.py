"""BERT (Devlin et al. 2018) and its kin: DistilBERT, RoBERTa, XLM-RoBERTa, ELECTRA, ALBERT, MPNet.

Tables of tokens, positions and (not all) types are added; each layer is attention in both directions and an MLP, with a
LayerNorm behind each sum. ALBERT's layers share weights, ELECTRA's and ALBERT's tables may be narrow and projected,
MPNet adds a bias by relative position. What differs stands in the config.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .endings import all_rows
from .relative_bias import bidirectional_bias

if TYPE_CHECKING:
    import numpy as np

    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights
    from .endings import Ending, Keep


@dataclass(frozen=True)
class _Layer:
    """The weights of a layer, each with its bias or None."""

    q: tuple[_core.Weight, np.ndarray | None]
    k: tuple[_core.Weight, np.ndarray | None]
    v: tuple[_core.Weight, np.ndarray | None]
    o: tuple[_core.Weight, np.ndarray | None]
    attention_norm: tuple[np.ndarray, np.ndarray | None]
    up: tuple[_core.Weight, np.ndarray | None]
    down: tuple[_core.Weight, np.ndarray | None]
    mlp_norm: tuple[np.ndarray, np.ndarray | None]

    @classmethod
    def read(cls, w: Weights) -> _Layer:
        attention = (w.linear(name) for name in "qkvo")
        return cls(*attention, w.norm("attention_norm"), w.linear("up"), w.linear("down"), w.norm("mlp_norm"))


def bert(t: Trace, c: EncoderConfig, w: Weights, table: _core.Weight, context: int) -> Ending:
    """Token ids, and types where there is a table of them -> all but the last layer of hidden rows [n_tokens, dim]."""
    x = t.embedding(table)
    if c.n_types:
        x = t.add(x, t.embedding(w.table("token_types.weight"), by="types"))
    x = t.add(x, t.embedding(w.table("positions.weight"), by="positions"))
    x = t.layer_norm(x, *w.norm("embed_norm"), c.norm_eps)
    if c.projected:
        x = t.linear(x, *w.linear("embed_projection"))
    t.mark("embeddings", x)
    bias = bidirectional_bias(w.table("relative_bias.weight")) if c.n_buckets else None
    layers = {i: _Layer.read(w.at(f"layers.{i}")) for i in sorted(set(c.weights_of))}

    def layer(t: Trace, x: Node, i: int, keep: Keep) -> Node:
        return t.mark(f"layers.{i}", _layer(t, x, c, layers[c.weights_of[i]], bias, keep))

    for i in range(c.n_layers - 1):
        x = layer(t, x, i, all_rows)
    return lambda t, keep: layer(t, x, c.n_layers - 1, keep)


def _layer(t: Trace, x: Node, c: EncoderConfig, layer: _Layer, bias: np.ndarray | None, keep: Keep) -> Node:
    q, k, v = (t.linear(x, *weights) for weights in (layer.q, layer.k, layer.v))
    y = t.attention(q, k, v, layer=0, n_heads=c.n_heads, n_kv_heads=c.n_heads, causal=False, bias=bias)
    x = t.layer_norm(t.add(keep(x), t.linear(keep(y), *layer.o)), *layer.attention_norm, c.norm_eps)
    h = t.activation(t.linear(x, *layer.up), c.activation)
    return t.layer_norm(t.add(x, t.linear(h, *layer.down)), *layer.mlp_norm, c.norm_eps)
