"""Questions to the part of a text that answers them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import integer
from ..encoder import softmax
from ..encoder_texts import Tokens
from ..errors import Error, ParameterError, shown
from .models import encoder_of

if TYPE_CHECKING:
    from ..encoder import Encoder


@dataclass(frozen=True)
class Answer:
    """text is that of the context's characters start to end (excluded); score: the probability that the answer begins
    and ends there, within the window of the context that holds it."""

    text: str
    score: float
    start: int
    end: int


def question_answering(
    question: str | Sequence[str],
    context: str | Sequence[str],
    model: Encoder | str | os.PathLike[str] | None = None,
    *,
    max_tokens: int = 30,
    stride: int = 128,
    errors: str = "raise",
) -> Answer | list[Answer | Error]:
    """The part of a context, at most max_tokens long, that answers a question; lists give a list.

    One text beside a list counts for each of it. model: a checkpoint with a head for questions.

    A context that is too long is read in windows that overlap by `stride` tokens, or by a quarter where that is less.
    Raises ParameterError, and ContextOverflow for a question that leaves no room; errors: "return" gives these in the
    place of an answer.
    """
    encoder = encoder_of(model, "question")
    integer("max_tokens", max_tokens, 1, 1 << 20)
    integer("stride", stride, 0, 1 << 20)
    if errors not in ("raise", "return"):
        raise ParameterError("errors", expected="raise or return", found=shown(errors))
    single = isinstance(question, str) and isinstance(context, str)
    answers: list[Answer | Error] = []
    for one, text in _pairs(question, context):
        try:
            answers.append(_answer(encoder, one, text, max_tokens, min(stride, encoder.context // 4)))
        except Error as error:
            if errors == "raise":
                raise
            answers.append(error)
    return answers[0] if single else answers


def _pairs(question: str | Sequence[str], context: str | Sequence[str]) -> list[tuple[str, str]]:
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] if isinstance(context, str) else list(context)
    if isinstance(question, str):
        questions *= len(contexts)
    if isinstance(context, str):
        contexts *= len(questions)
    if len(questions) != len(contexts):
        raise ParameterError("context", expected=f"{len(questions)}, one for each question", found=str(len(contexts)))
    return list(zip(questions, contexts, strict=True))


def _answer(encoder: Encoder, question: str, context: str, max_tokens: int, stride: int) -> Answer:
    windows = encoder.reader.windows(question, context, encoder.context, stride)
    found = [
        _best_span(window, scores, max_tokens)
        for window, scores in zip(windows, encoder.window_scores(windows), strict=True)
    ]
    score, start, end = max(found)
    return Answer(context[start:end], score, start, end)


def _best_span(window: Tokens, scores: np.ndarray, max_tokens: int) -> tuple[float, int, int]:
    """(probability, start, end) of the likeliest span of the second text. That there is none is what the first token's
    scores speak for; they share the probability."""
    inside = np.array([part == 1 for part in window.parts])
    allowed = inside.copy()
    allowed[0] = True
    begin, end = softmax(np.where(allowed, scores.T, -np.inf))
    begin, end = np.where(inside, begin, 0.0), np.where(inside, end, 0.0)
    best = (-1.0, 0, 0)
    for length in range(min(max_tokens, len(begin))):
        together = begin[: len(begin) - length] * end[length:]
        at = int(together.argmax())
        best = max(best, (float(together[at]), -at, -length))
    score, first, length = best[0], -best[1], -best[2]
    return score, window.offsets[first][0], window.offsets[first + length][1]
