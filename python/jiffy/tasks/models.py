"""The model of a task, and how its results are handed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from ..encoder import Encoder
from ..errors import ParameterError, Unsupported
from ..hub import DEFAULT_ENCODER, resolve_model
from ..llm import load_encoder
from ..packed import is_packed
from ..results import watched
from ..static_files import is_static
from ..static_vectors import StaticVectors

if TYPE_CHECKING:
    from pathlib import Path

    from ..encoder_texts import Text
    from ..results import Results

T = TypeVar("T")

ModelLike = "Encoder | str | os.PathLike[str] | None"

_LONG = 1000  # texts, from which on a bar tells how far they are
_KEPT = 3  # models


def encoder_of(model: Encoder | str | os.PathLike[str] | None, task: str = "") -> Encoder:
    """The encoder that `model` stands for; task: "", or the head that it must have. Raises ParameterError for another
    object or none where a head is wanted, Unsupported for another head, and as `jiffy.load_encoder` does."""
    if model is None and task:
        raise ParameterError("model", expected=f'a model with a head for "{task}": there is no default', found="None")
    encoder = embedder_of(model)
    if not isinstance(encoder, Encoder):
        raise Unsupported(str(encoder.path), expected="an encoder", found="static vectors")
    if task:
        encoder.needs_head(task)
    return encoder


def embedder_of(model: Encoder | StaticVectors | str | os.PathLike[str] | None) -> Encoder | StaticVectors:
    """The same, where embeddings are all that is asked for: static vectors will do."""
    if isinstance(model, (Encoder, StaticVectors)):
        return model
    name = DEFAULT_ENCODER if model is None else model
    if not isinstance(name, (str, os.PathLike)):
        expected = "an Encoder, StaticVectors, a name, a path, or None"
        raise ParameterError("model", expected=expected, found=type(model).__name__)
    return _named(os.fspath(name), os.getpid())


@lru_cache(maxsize=_KEPT)
def _named(name: str, process: int) -> Encoder | StaticVectors:
    """process: a forked child needs threads of its own."""
    path = resolve_model(name)
    return StaticVectors(path) if is_static(path) else load_encoder(path, weights=unless_packed(path, "i8g32"))


def unless_packed(path: Path, weights: str) -> str | None:
    """The format for the model at `path`, which a packed file has decided."""
    return None if is_packed(path) else weights


def is_one(texts: object) -> bool:
    """Whether it is one text, or one pair."""
    return isinstance(texts, (str, tuple)) or not isinstance(texts, Iterable)


def delivered(
    texts: Text | Iterable[Text], ask: Callable[[Iterable[Text]], Results], made: Callable[[object], T], progress: bool
) -> T | list[T] | Iterator[T]:
    """What `made` makes of each result: of one text, of a list of them, or one after the other."""
    if is_one(texts):
        return made(next(ask([texts])))
    if not isinstance(texts, list):
        return ask(texts).then(made)
    results = ask(texts).then(made)
    if not progress or len(texts) < _LONG:
        return list(results)
    return list(watched(results, len(texts)))
