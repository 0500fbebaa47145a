"""What stands behind an encoder: a pooled embedding, or the head of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights


def embedding(t: Trace, x: Node, pooling: str, normalised: bool) -> Node:
    """One row for each sequence, of length 1 if normalised (a row of zeros stays one)."""
    y = t.pool(x, pooling)
    if not normalised:
        return y
    # x / |x| = x / sqrt(mean(x^2)) / sqrt(dim)
    return t.rms_norm(y, np.full(x.width, x.width**-0.5, np.float32), 1e-30)


def head(t: Trace, x: Node, c: EncoderConfig, w: Weights, table: _core.Weight) -> Node:
    """Scores: of a "sequence" head one row for each sequence, else one for each row that is asked for, over the labels,
    (start, end) or the vocabulary."""
    w, h = w.at("head"), c.head
    y = t.pool(x, h.pooling) if h.task == "sequence" else t.select(x)
    if h.activation:
        y = t.activation(t.linear(y, *w.linear("dense")), h.activation)
    if h.norm:
        y = t.layer_norm(y, *w.norm("norm"), c.norm_eps)
    if h.task != "mask":
        return t.linear(y, *w.linear("out"))
    matrix = table if c.tied else w.matrix("out.weight")
    return t.linear(y, matrix, w.bias("out"))
