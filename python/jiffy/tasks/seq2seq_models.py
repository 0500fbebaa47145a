"""The encoder-decoder of a task."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import cast

from ..errors import ParameterError, Unsupported
from ..hub import MODELS, resolve_model
from ..llm import load
from ..seq2seq import Seq2Seq
from .models import unless_packed

_KEPT = 3  # models


def seq2seq_of(model: Seq2Seq | str | os.PathLike[str]) -> Seq2Seq:
    """The model that `model` stands for; one that is named is loaded with weights in 8 bits, and the last few stay
    loaded. Raises ParameterError for another object, Unsupported for another kind of model, and as `jiffy.load`."""
    if isinstance(model, Seq2Seq):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise ParameterError("model", expected="a Seq2Seq, a name or a path", found=type(model).__name__)
    return _named(os.fspath(model), os.getpid())


def known_pairs() -> list[tuple[str, str]]:
    """(source, target) of the translators that need no more than their name."""
    names = (name.split("-") for name in MODELS if name.startswith("marian-"))
    return [(source, target) for _, source, target in names]


@lru_cache(maxsize=_KEPT)
def _named(name: str, process: int) -> Seq2Seq:
    """process: a forked child needs threads of its own."""
    path = resolve_model(name)
    model = cast("object", load(path, weights=unless_packed(path, "i8")))
    if not isinstance(model, Seq2Seq):
        raise Unsupported(name, expected="an encoder-decoder", found=type(model).__name__)
    return model
