"""Texts in another language."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..arguments import one_of
from ..errors import Error, ParameterError, Unsupported, shown
from ..languages import language
from ..results import Results
from .models import delivered
from .sentences import Document
from .seq2seq_models import known_pairs, seq2seq_of

if TYPE_CHECKING:
    from ..seq2seq import Seq2Seq


def machine_translation(
    texts: str | Iterable[str],
    target_language: str,
    source_language: str = "en",
    model: Seq2Seq | str | os.PathLike[str] | None = None,
    *,
    errors: str = "raise",
    progress: bool = True,
    **fields: object,
) -> str | list[str | Error] | Iterator[str | Error]:
    """A text in another language; a list gives a list, another iterable an iterator.

    Languages are codes or English names ("pt", "Portuguese"). model: a `jiffy.Seq2Seq`, a name or a path; None for the
    small translators that jiffy fetches, between English and Portuguese. `fields`: of SamplingParams, such as
    n_beams=4; what isn't given is as the model's files say.

    A text is cut into sentences and at ends of lines, each is translated by itself, and what stood between them stays.
    Sentences of many texts run as ragged batches; a text's translation doesn't depend on the others.
    errors: "raise" what is wrong with a text at its turn, or "return" it in the place of a translation.
    Raises ParameterError; Unsupported for a pair of languages without a model.
    """
    one_of("errors", errors, ["raise", "return"])
    if "n" in fields:
        raise ParameterError("n", expected="one translation of a text", found=shown(fields["n"]))
    source, target = _language(source_language, "source_language"), _language(target_language, "target_language")
    translator = seq2seq_of(_student(source, target) if model is None else model)
    prefix = ""
    if translator.config.model_type == "t5":
        prefix = f"translate {_name(source_language)} to {_name(target_language)}: "
    asked = {"source_language": source_language, "target_language": target_language, **fields}

    def chunk(some: list[object]) -> list[str | Error]:
        documents = [Document.of(text) if isinstance(text, str) else _no_text(text) for text in some]
        sentences = [prefix + s for d in documents if isinstance(d, Document) for s in d.sentences]
        answers = iter(translator.generate(sentences, errors="return", **asked))
        return [d if isinstance(d, Error) else _translated(d, [next(answers) for _ in d.sentences]) for d in documents]

    return delivered(texts, lambda some: Results(some, chunk, errors == "raise"), lambda result: result, progress)


def _language(name: str, where: str) -> str:
    """Its code, or the name itself of one that only models know. Raises ParameterError."""
    known = language(name, where)
    return known.code if known else name


def _name(given: str) -> str:
    known = language(given, "language")
    return known.name if known else given


def _student(source: str, target: str) -> str:
    if (source, target) not in known_pairs():
        pairs = ", ".join(f"{a} to {b}" for a, b in known_pairs())
        raise Unsupported("target_language", expected=f"{pairs}, or a model", found=f"{source} to {target}")
    return f"marian-{source}-{target}"


def _no_text(text: object) -> Error:
    return ParameterError("text", expected="a text", found=shown(text))


def _translated(document: Document, answers: list) -> str | Error:
    failed = next((one for one in answers if isinstance(one, Error)), None)
    return failed or document.with_sentences([one.text.strip() for one in answers])
