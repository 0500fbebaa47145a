"""Texts to what stands in them: the labels of their tokens, joined to entities."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..encoder import TokenScores, softmax
from ..errors import Error
from .models import delivered, encoder_of

if TYPE_CHECKING:
    from ..encoder import Encoder

_OUTSIDE = "O"


@dataclass(frozen=True)
class Entity:
    """text is that of the characters start to end (excluded); score: the mean probability of its tokens."""

    label: str
    score: float
    text: str
    start: int
    end: int


def token_classification(
    texts: str | Iterable[str],
    model: Encoder | str | os.PathLike[str] | None = None,
    *,
    join: bool = True,
    overflow: str = "error",
    errors: str = "raise",
    progress: bool = True,
) -> list[Entity] | list[list[Entity] | Error] | Iterator[list[Entity] | Error]:
    """The labelled parts of each text, in order. model: a checkpoint with a head for tokens.

    join: neighbouring tokens of one label are one entity, which a label "B-..." begins anew; tokens labelled "O" are
    left out. False gives every token with its label as it is. The rest is what `jiffy.tasks` says of all tasks.
    """
    encoder = encoder_of(model, "token")
    made = _joined if join else _each

    def ask(some: Iterable[str]):
        return encoder.token_scores(some, overflow=overflow, errors=errors)

    return delivered(texts, ask, lambda one: made(one, encoder.labels), progress)


def _each(found: TokenScores, labels: tuple[str, ...]) -> list[Entity]:
    probabilities = softmax(found.scores)
    best = probabilities.argmax(axis=1)
    entities = []
    for i, ((start, end), special) in enumerate(zip(found.tokens.offsets, found.tokens.special, strict=True)):
        if not special:
            score = float(probabilities[i, best[i]])
            entities.append(Entity(labels[best[i]], score, found.text[start:end], start, end))
    return entities


def _joined(found: TokenScores, labels: tuple[str, ...]) -> list[Entity]:
    groups: list[list[Entity]] = []
    before = _OUTSIDE
    for token in _each(found, labels):
        prefix, _, kind = token.label.partition("-")
        if prefix not in ("B", "I") or not kind:
            prefix, kind = "I", token.label
        if kind != _OUTSIDE:
            if kind == before and prefix == "I":
                groups[-1].append(token)
            else:
                groups.append([token])
        before = kind
    return [_entity(found.text, group) for group in groups]


def _entity(text: str, tokens: list[Entity]) -> Entity:
    label = tokens[0].label
    label = label[2:] if label[:2] in ("B-", "I-") else label
    start, end = tokens[0].start, tokens[-1].end
    return Entity(label, float(np.mean([token.score for token in tokens])), text[start:end], start, end)
