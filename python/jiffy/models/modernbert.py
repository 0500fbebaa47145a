"""ModernBERT (Warner et al. 2024): LayerNorm before each part, rope, GeGLU, and windows in most layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rope import RopeScaling, RopeTables
from .encoder_layer import EncoderLayer, encoder_layer
from .endings import all_rows

if TYPE_CHECKING:
    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights
    from .endings import Ending, Keep


def modernbert(t: Trace, c: EncoderConfig, w: Weights, table: _core.Weight, context: int) -> Ending:
    """Token ids -> all but the last layer of hidden rows [n_tokens, dim]."""
    ropes = {theta: RopeTables.make(context, c.head_dim, theta, RopeScaling()) for theta in set(c.rope_thetas)}
    x = t.mark("embeddings", t.layer_norm(t.embedding(table), *w.norm("embed_norm"), c.norm_eps))
    layers = [EncoderLayer.read(w.at(f"layers.{i}"), attention_normed=i > 0, gated=True) for i in range(c.n_layers)]
    final_norm = w.norm("final_norm")

    def layer(t: Trace, x: Node, i: int, keep: Keep) -> Node:
        rope, window = ropes[c.rope_thetas[i]], c.windows[i]
        y = encoder_layer(t, x, c, layers[i], keep, norm_first=True, rope=rope, window=window)
        return t.mark(f"layers.{i}", y)

    for i in range(c.n_layers - 1):
        x = layer(t, x, i, all_rows)
    last = c.n_layers - 1
    return lambda t, keep: t.mark("final_norm", t.layer_norm(layer(t, x, last, keep), *final_norm, c.norm_eps))
