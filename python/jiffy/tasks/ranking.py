"""Documents in the order of what they have to do with a query."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..arguments import integer
from ..errors import ParameterError, Unsupported, shown
from ..static_vectors import StaticVectors
from .classification import sigmoid
from .embeddings import similarity
from .models import embedder_of

if TYPE_CHECKING:
    import numpy as np

    from ..encoder import Encoder


@dataclass(frozen=True)
class Ranked:
    """A document: its place in the list that was given, its text, and how well it fits."""

    index: int
    text: str
    score: float


def rerank(
    query: str,
    documents: Sequence[str],
    model: Encoder | StaticVectors | str | os.PathLike[str] | None = None,
    *,
    top: int | None = None,
    overflow: str = "error",
) -> list[Ranked]:
    """The documents (or the best `top` of them), the one that fits best first; equal ones in their order.

    model: a cross-encoder, a checkpoint that scores pairs with a single label (score: its probability), or an embedder,
    whose scores are cosines. Raises Unsupported for other heads.
    """
    documents = [documents] if isinstance(documents, str) else list(documents)
    if not isinstance(query, str):
        raise ParameterError("query", expected="a text", found=shown(query))
    if top is not None:
        integer("top", top, 1, 1 << 40)
    if not documents:
        return []
    encoder = embedder_of(model)
    scores = _scores(encoder, query, documents, overflow)
    order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))
    return [Ranked(i, documents[i], float(scores[i])) for i in order[:top]]


def _scores(
    encoder: Encoder | StaticVectors, query: str, documents: list[str], overflow: str
) -> Sequence[float] | np.ndarray:
    if isinstance(encoder, StaticVectors) or encoder.config.head.task != "sequence":
        return similarity(query, documents, encoder, overflow=overflow)[0]
    if len(encoder.labels) != 1:
        expected = "a cross-encoder with one label, or an embedder"
        raise Unsupported(str(encoder.path), expected=expected, found=f"a head of {len(encoder.labels)} labels")
    pairs = [(query, document) for document in documents]
    return [float(sigmoid(scores)[0]) for scores in encoder.sequence_scores(pairs, overflow=overflow)]
