"""Texts to vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Error
from .models import delivered, embedder_of, is_one

if TYPE_CHECKING:
    from ..encoder import Encoder
    from ..encoder_texts import Text
    from ..static_vectors import StaticVectors


def embed(
    texts: Text | Iterable[Text],
    model: Encoder | StaticVectors | str | os.PathLike[str] | None = None,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    overflow: str = "error",
    errors: str = "raise",
    progress: bool = True,
) -> np.ndarray | list[np.ndarray | Error] | Iterator[np.ndarray | Error]:
    """The embedding of a text, float32 [dim]; of a list of texts [n, dim], or a list where errors are returned.

    pooling, normalize: as for `Encoder.encode`. The rest is what `jiffy.tasks` says of all tasks.
    """
    encoder = embedder_of(model)

    def ask(some: Iterable[Text]):
        return encoder.embeddings(some, pooling=pooling, normalize=normalize, overflow=overflow, errors=errors)

    found = delivered(texts, ask, lambda row: row, progress)
    if isinstance(found, list) and errors == "raise":
        return np.stack(found) if found else np.empty((0, encoder.dim), np.float32)
    return found


def similarity(
    a: Text | list[Text],
    b: Text | list[Text],
    model: Encoder | StaticVectors | str | os.PathLike[str] | None = None,
    *,
    overflow: str = "error",
) -> float | np.ndarray:
    """The cosine of the angle between the embeddings of a and b: 1 for what means the same. Two texts give a number,
    lists an array [len(a), len(b)], one text counting as a list of one."""
    x, y = (_many(some, model, overflow) for some in (a, b))
    cosines = np.clip(x @ y.T, -1.0, 1.0)
    return float(cosines[0, 0]) if is_one(a) and is_one(b) else cosines


def _many(
    texts: Text | list[Text], model: Encoder | StaticVectors | str | os.PathLike[str] | None, overflow: str
) -> np.ndarray:
    given = [texts] if is_one(texts) else list(texts)
    return embed(given, model, normalize=True, overflow=overflow)
