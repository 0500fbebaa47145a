"""The model of a task, and how its results are handed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from ..encoder import Encoder
from ..errors import ParameterError
from ..hub import DEFAULT_ENCODER
from ..llm import load_encoder

if TYPE_CHECKING:
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
    if not isinstance(model, Encoder):
        name = DEFAULT_ENCODER if model is None else model
        if not isinstance(name, (str, os.PathLike)):
            expected = "an Encoder, a name, a path, or None"
            raise ParameterError("model", expected=expected, found=type(model).__name__)
        model = _named(os.fspath(name), os.getpid())
    if task:
        model.needs_head(task)
    return model


@lru_cache(maxsize=_KEPT)
def _named(name: str, process: int) -> Encoder:
    """process: a forked child needs threads of its own."""
    return load_encoder(name, weights="i8g32")


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
    return list(_watched(results, len(texts)))


def _watched(results: Iterator[T], total: int) -> Iterator[T]:
    import sys

    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, "texts", total=total, console=Console(stderr=True), transient=True)
