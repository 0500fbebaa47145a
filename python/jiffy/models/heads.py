"""What stands behind an encoder: a pooled embedding, or the head of its checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .endings import chosen, pooled

if TYPE_CHECKING:
    from .. import _core
    from ..encoder_config import EncoderConfig
    from ..graph import Node, Trace
    from ..weights import Weights
    from .endings import Ending


def embedding(t: Trace, ending: Ending, pooling: str, normalised: bool) -> Node:
    """One row for each sequence, of length 1 if normalised (a row of zeros stays one)."""
    y = pooled(t, ending, pooling)
    if normalised:  # y / |y| = y / sqrt(mean(y^2)) / sqrt(dim)
        y = t.rms_norm(y, np.full(y.width, y.width**-0.5, np.float32), 1e-30)
    return t.mark("embedding", y)


def head(t: Trace, ending: Ending, c: EncoderConfig, w: Weights, table: _core.Weight) -> Node:
    """Scores: of a "sequence" head one row for each sequence, else one for each row that is asked for, over the labels,
    (start, end) or the vocabulary."""
    w, h = w.at("head"), c.head
    y = pooled(t, ending, h.pooling) if h.task == "sequence" else chosen(t, ending)
    if h.activation:
        y = t.activation(t.linear(y, *w.linear("dense")), h.activation)
    if h.norm:
        y = t.layer_norm(y, *w.norm("norm"), c.norm_eps)
    tied = h.task == "mask" and c.tied
    return t.mark("head", t.linear(y, table if tied else w.matrix("out.weight"), w.bias("out")))
