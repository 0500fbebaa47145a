"""Texts in fewer words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..arguments import one_of
from ..errors import Error, ParameterError, shown
from ..results import Results
from .models import delivered
from .seq2seq_models import seq2seq_of

if TYPE_CHECKING:
    from ..seq2seq import Seq2Seq


def summarization(
    texts: str | Iterable[str],
    model: Seq2Seq | str | os.PathLike[str],
    *,
    overflow: str = "error",
    errors: str = "raise",
    progress: bool = True,
    **fields: object,
) -> str | list[str | Error] | Iterator[str | Error]:
    """A text's summary; a list gives a list, another iterable an iterator.

    model: a `jiffy.Seq2Seq`, a name or a path of one that was trained for it (bart, t5, ...); there is no default.
    `fields`: of SamplingParams, such as max_tokens or n_beams; what isn't given is as the model's files say.
    overflow: "error", or "truncate" to leave out the end of a text that is longer than the model's context.
    errors: "raise" what is wrong with a text at its turn, or "return" it in the place of a summary.
    Raises ParameterError, ContextOverflow.
    """
    one_of("overflow", overflow, ["error", "truncate"])
    one_of("errors", errors, ["raise", "return"])
    if "n" in fields:
        raise ParameterError("n", expected="one summary of a text", found=shown(fields["n"]))
    summariser = seq2seq_of(model)
    prefix = "summarize: " if summariser.config.model_type == "t5" else ""

    def chunk(some: list[object]) -> list[str | Error]:
        given = [prefix + text if isinstance(text, str) else text for text in some]
        answers = summariser.generate(given, errors="return", overflow=overflow, **fields)
        return [one if isinstance(one, Error) else one.text.strip() for one in answers]

    return delivered(texts, lambda some: Results(some, chunk, errors == "raise"), lambda result: result, progress)
