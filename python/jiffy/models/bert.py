"""BERT (Devlin et al. 2018) and its kin: DistilBERT, RoBERTa, XLM-RoBERTa, ELECTRA, ALBERT, MPNet.

Tables of tokens, positions and (not all) types are added; each layer is attention in both directions and an MLP, with a
LayerNorm behind each sum. ALBERT's layers share weights, ELECTRA's and ALBERT's tables may be narrow and projected,
MPNet adds a bias by relative position. What differs stands in the config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .encoder_layer import EncoderLayer, encoder_layer
from .endings import all_rows
from .relative_bias import bidirectional_bias

if TYPE_CHECKING:
    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights
    from .endings import Ending, Keep


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
    layers = {i: EncoderLayer.read(w.at(f"layers.{i}")) for i in sorted(set(c.weights_of))}

    def layer(t: Trace, x: Node, i: int, keep: Keep) -> Node:
        return t.mark(f"layers.{i}", encoder_layer(t, x, c, layers[c.weights_of[i]], keep, bias=bias))

    for i in range(c.n_layers - 1):
        x = layer(t, x, i, all_rows)
    return lambda t, keep: layer(t, x, c.n_layers - 1, keep)
