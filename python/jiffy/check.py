"""Does the engine compute what the model's file says? Part by part against float64, without errors adding up.

Each part of the program (see `Trace.mark`) is computed in float64 from the very values that the engine gave to it:
once with the weights that the engine holds, once with those of the file. The first tells the engine's own error, the
second what the weight format costs. A bad part is one of

- weights that are further from the file than their format's rounding (`weight_bounds`), which for a format that takes
  the file's integers over is not at all;
- a row of its output that is further from float64 on the same weights than twice what rounding activations to bf16 or
  int8, and keys and values as the cache holds them, changes there or in rows like it in float64 itself, plus the
  rounding of float32 sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from .check_parts import Checker, FileWeights, Part, WeightFault, sections
from .encoder import Encoder
from .errors import ParameterError
from .families import family_of_source
from .hub import resolve_model
from .models.programs import DECODER, ENCODER
from .seq2seq import Seq2Seq
from .weights import Packing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .graph import Trace, Traced

__all__ = ["EncoderReport", "Part", "Report", "WeightFault", "check", "tokens_of"]


@dataclass(frozen=True)
class PartsReport:
    n_tokens: int
    parts: tuple[Part, ...]

    @property
    def first_bad(self) -> Part | None:
        return next((part for part in self.parts if part.bad), None)


@dataclass(frozen=True)
class Report(PartsReport):
    """Of what says tokens. kl_mean, kl_max: divergence in nats of the engine's next-token distributions from the
    reference's. changed_top1: share of positions whose likeliest token differs. Perplexities are of the checked tokens,
    of an encoder-decoder of its own answer."""

    kl_mean: float
    kl_max: float
    changed_top1: float
    perplexity: float
    reference_perplexity: float


@dataclass(frozen=True)
class EncoderReport(PartsReport):
    """cosine: the least one of a row of the result - an embedding, or a head's scores - with the reference's.
    changed_top1: the share of rows whose largest score is another's; None for an embedding."""

    cosine: float
    changed_top1: float | None


def check(
    model: Any,
    token_ids: Sequence[int],
    against: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = lambda part: None,
) -> Report | EncoderReport:
    """Runs at least two tokens through the engine of a `Model`, `Encoder` or `Seq2Seq`, and through the reference.

    token_ids: of an encoder-decoder those of a source; its target is as long an answer of its own.
    against: the file or folder that holds the true weights; None: the model's own. report is called with the name of
    each part before it is computed. Raises ParameterError for too few tokens or another model, ContextOverflow.
    """
    ids = list(token_ids)
    if len(ids) < 2:
        raise ParameterError("token_ids", expected="at least two tokens", found=str(len(ids)))
    true = _programs_of_file(model, against)
    if isinstance(model, Encoder):
        return _check_encoder(model, ids, true, report)
    if isinstance(model, Seq2Seq):
        return _check_seq2seq(model, ids, true, report)
    logits, rows = model._engine.observe(ids, _values(model._trace))
    checker = _checker(model, ids, model._trace, rows)
    parts = _parts(checker, model._trace, true[DECODER].trace, report)
    return _report(parts, len(ids), checker.true["logits"], logits, ids[1:])


def tokens_of(model: Any, text: str, most: int) -> list[int]:
    """The beginning of a text as a model of any family reads it."""
    most = min(most, model.info()["context"])
    if isinstance(model, Encoder):
        tokens = model.reader.read([text], most, truncate=True)[0]
        return model.checked(tokens).ids
    if isinstance(model, Seq2Seq):
        return [*model.reader.source.encode(text, add_bos=False)[: most - 1], model.reader.eos_ids[0]]
    return model.tokenizer.encode(text)[:most]


def _check_encoder(
    encoder: Encoder, ids: list[int], true: Mapping[str, Traced], report: Callable[[str], None]
) -> EncoderReport:
    name = encoder.usual_program
    trace = encoder.trace(name)
    result, rows = encoder.observe(name, ids, _values(trace))
    checker = _checker(encoder, ids, trace, rows)
    parts = _parts(checker, trace, true[name].trace, report)
    expected = checker.true[list(trace.marks)[-1]]
    lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(result.astype(np.float64), axis=-1)
    cosines = (expected * result).sum(axis=-1) / lengths
    changed = np.mean(result.argmax(axis=-1) != expected.argmax(axis=-1)) if encoder.config.head.task else None
    return EncoderReport(len(ids), parts, float(cosines.min()), None if changed is None else float(changed))


def _check_seq2seq(model: Seq2Seq, ids: list[int], true: Mapping[str, Traced], report: Callable[[str], None]) -> Report:
    reading, writing = model.trace(ENCODER), model.trace(DECODER)
    _, rows = model._encoder.observe(np.asarray(ids, np.int32), _values(reading))
    reader = _checker(model, ids, reading, rows)
    parts = _parts(reader, reading, true[ENCODER].trace, report)
    asked = {"max_tokens": min(len(ids), model.info()["context"] - 1), "ignore_eos": True, "n_beams": 1}
    answer = model.generate(token_ids=ids, **asked).token_ids
    target = [model.config.decoder_start_id, *answer]
    logits, rows = model._engine.observe(target, _values(writing), ids)
    source = list(reading.marks)[-1]
    writer = _checker(model, target, writing, rows)
    writer.source, writer.true_source = reader.observed[source].astype(np.float64), reader.true[source]
    parts += _parts(writer, writing, true[DECODER].trace, report)
    return _report(parts, len(ids), writer.true["logits"], logits, answer)


def _values(trace: Trace) -> list[int]:
    return [node.index for node in trace.marks.values()]


def _checker(model: Any, ids: list[int], trace: Trace, rows: list[np.ndarray]) -> Checker:
    return Checker(ids, model.info()["kv_dtype"], dict(zip(trace.marks, rows, strict=True)), {})


def _parts(checker: Checker, trace: Trace, truth: Trace, report: Callable[[str], None]) -> tuple[Part, ...]:
    """Raises ParameterError if the file's program is another."""
    if list(truth.marks) != list(trace.marks):
        found = f"{len(truth.marks)} others"
        raise ParameterError("against", expected=f"a model of the parts {', '.join(trace.marks)}", found=found)
    parts = []
    for mine, true in zip(sections(trace), sections(truth), strict=True):
        report(mine.name)
        parts.append(checker.part(mine, true))
    return tuple(parts)


def _programs_of_file(model: Any, against: str | os.PathLike[str] | None) -> Mapping[str, Traced]:
    """The model's programs over the weights of a file. Raises ParameterError for one of another model."""
    path = model.path if against is None else resolve_model(against)
    family = family_of_source(path)
    checkpoint = family.open(path)
    if checkpoint.config.model_type != model.config.model_type:
        found = checkpoint.config.model_type
        raise ParameterError("against", expected=f"a {model.config.model_type}", found=found)
    weights = FileWeights(checkpoint.tensors, Packing(_core.ThreadPool(1)))
    return family.programs(checkpoint.config, weights, model.info()["context"])


def _report(
    parts: tuple[Part, ...], n_tokens: int, expected: np.ndarray, got: np.ndarray, following: Sequence[int]
) -> Report:
    expected, got = _log_softmax(expected), _log_softmax(got)
    kl = (np.exp(expected) * (expected - got)).sum(axis=1)
    at = np.arange(len(following)), np.asarray(following)
    return Report(
        n_tokens=n_tokens,
        parts=parts,
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        changed_top1=float(np.mean(got.argmax(axis=1) != expected.argmax(axis=1))),
        perplexity=float(np.exp(-got[at].mean())),
        reference_perplexity=float(np.exp(-expected[at].mean())),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
