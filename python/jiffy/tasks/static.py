"""Texts to short vectors, by the million."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..distill import distill
from ..errors import Error, Unsupported
from ..hub import DEFAULT_ENCODER, cache_folder
from ..hub.cache import cache_errors
from ..notice import notify
from ..static_vectors import StaticVectors
from .embeddings import embed
from .models import embedder_of, encoder_of

_DIMS = 100
_VERSION = 2  # of how the default vectors are made


def string_to_vector(
    texts: str | Iterable[str],
    model: StaticVectors | str | os.PathLike[str] | None = None,
    *,
    errors: str = "raise",
    progress: bool = True,
) -> np.ndarray | list[np.ndarray | Error] | Iterator[np.ndarray | Error]:
    """The static vector of a text, float32 [dim]: the mean of its words' vectors, zeros where none is known.

    model: `jiffy.StaticVectors`, or a file of them, GloVe's for example; None: 100 numbers distilled from
    all-MiniLM-L6-v2, which is done once, in a minute at most, and kept in jiffy's cache folder. The rest is what
    `jiffy.tasks` says of all tasks.
    """
    return embed(texts, _static_of(model, progress), errors=errors, progress=progress)


def _static_of(model: StaticVectors | str | os.PathLike[str] | None, progress: bool) -> StaticVectors:
    found = embedder_of(_default(progress) if model is None else model)
    if not isinstance(found, StaticVectors):
        raise Unsupported(str(found.path), expected="static vectors", found="an encoder")
    return found


def _default(progress: bool) -> Path:
    path = cache_folder() / "static" / f"{DEFAULT_ENCODER}-{_DIMS}-{_VERSION}.safetensors"
    if path.is_file():
        return path
    encoder = encoder_of(None)
    notify(f"distilling vectors of {_DIMS} numbers from {DEFAULT_ENCODER} into {path}, once")
    with cache_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".distill-", dir=path.parent, ignore_cleanup_errors=True) as scratch:
            made = Path(scratch, path.name)
            distill(encoder, made, dims=_DIMS, progress=progress)
            os.replace(made, path)
    return path
