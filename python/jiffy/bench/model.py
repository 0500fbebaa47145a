"""How fast a model runs here, beside what the machine's limits allow (`measuring`): a language model's prefill, decode
alone and in a batch; an encoder's texts alone, in batches, and of any length; an encoder-decoder's answers, greedy and
by beam search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from ..encoder import Encoder
from ..errors import Error, ParameterError
from ..llm import Model
from ..models.programs import embedding_name
from ..seq2seq import Seq2Seq
from .measuring import QUICK, Effort, Job, Report, Result, Run, in_turn, measure, timed, together

if TYPE_CHECKING:
    from collections.abc import Callable

_BATCH_CONTEXT = 32  # tokens that each sequence of a batch starts with
_CHECKED_STEPS = 16
# What Engine.add takes for the likeliest token at every step, to the last.
GREEDY = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "seed": 0,
    "ignore_eos": True,
    "stop_ids": [],
}


@dataclass(frozen=True)
class Plan(Effort):
    """Of a language model. prefill: prompt lengths. decode: contexts of a sequence alone (0: one token). batch:
    sequences at once. rounds: of prompts. steps: decode steps whose median counts.
    """

    prefill: Sequence[int] = (128, 512, 2048)
    decode: Sequence[int] = (0, 512, 2048)
    batch: Sequence[int] = (8, 32)
    steps: int = 32

    @classmethod
    def quick(cls, prefill: Sequence[int] = (128,), decode: Sequence[int] = (0,), batch: Sequence[int] = (8,)) -> Plan:
        """Seconds instead of minutes, and less certain figures."""
        return cls(prefill, decode, batch, steps=8, **QUICK)

    def positions(self) -> int:
        """The most that a sequence needs."""
        return max([*self.prefill, *self.decode, _BATCH_CONTEXT]) + _decoded(max(self.batch, default=1), self.steps)

    def places(self) -> int:
        """The most sequences that run at once."""
        return max(self.batch, default=1)

    def jobs(self, model: Model) -> list[Job]:
        runner, found = _Steps(model), []
        for n in self.prefill:
            found.append(Job(f"prefill {n}", f"prefill of {n}", n, lambda n=n: runner.prefill(n, self.rounds)))
        for n in self.decode:
            run = lambda n=n: runner.decode(1, max(n, 1), self.steps)  # noqa: E731
            found.append(Job(f"decode at {n}", f"decode at context {n}", 1, run))
        for n in self.batch:
            found.append(
                Job(f"batch {n}", f"batch of {n}", n, lambda n=n: runner.decode(n, _BATCH_CONTEXT, self.steps))
            )
        return found

    def check(self, model: Model) -> None:
        check(model, max(self.batch, default=2))


@dataclass(frozen=True)
class EncoderPlan(Effort):
    """Of an encoder. length: tokens of a text. batch: texts at once. ragged: the shortest and the longest of as many
    texts as the largest batch has, as far as the context allows; none for no such batch."""

    length: Sequence[int] = (32, 128)
    batch: Sequence[int] = (1, 32)
    ragged: Sequence[int] = (5, 200)

    @classmethod
    def quick(cls, length: Sequence[int] = (32,), batch: Sequence[int] = (1, 32)) -> EncoderPlan:
        return cls(length, batch, **QUICK)

    def positions(self) -> int:
        return max([1, *self.length])

    def places(self) -> int:
        return max(self.batch, default=1)

    def jobs(self, encoder: Encoder) -> list[Job]:
        found = []
        for length in self.length:
            for n in self.batch:
                name = f"alone {length}" if n == 1 else f"batch {n} of {length}"
                found.append(_texts(encoder, name, [length] * n, self.rounds))
        if self.ragged:
            least, most = (min(n, encoder.context) for n in self.ragged)
            lengths = np.linspace(least, most, self.places()).astype(np.int64)
            order = np.random.default_rng(2).permutation(len(lengths))
            name = f"ragged {len(lengths)} of {least} to {most}"
            found.append(_texts(encoder, name, lengths[order].tolist(), self.rounds))
        return found

    def check(self, encoder: Encoder) -> None:
        """Finite numbers, and the same bits alone and among others. Raises Error."""
        native = _program(encoder)
        lengths = np.array([self.positions(), 1, 7 % encoder.context + 1])
        ids = np.random.default_rng(1).integers(0, encoder.config.vocab_size, lengths.sum(), np.int32)
        alone, together = native.run(ids[: lengths[0]], lengths[:1]), native.run(ids, lengths)
        if not np.isfinite(together).all():
            raise Error("bench", expected="finite numbers", found="NaN or infinity")
        if not np.array_equal(alone, together[: len(alone)]):
            raise Error("bench", expected="the same bits alone and among others", found="others")


@dataclass(frozen=True)
class Seq2SeqPlan(Effort):
    """Of an encoder-decoder. batch: texts at once, each of `source` tokens. beams: 1 for greedy answers, of `target`
    tokens each."""

    batch: Sequence[int] = (1, 16)
    beams: Sequence[int] = (1, 4)
    source: int = 25
    target: int = 32

    @classmethod
    def quick(cls, batch: Sequence[int] = (1, 16), beams: Sequence[int] = (1, 4)) -> Seq2SeqPlan:
        return cls(batch, beams, **QUICK)

    def positions(self) -> int:
        return max(self.source, self.target + 1)

    def places(self) -> int:
        return max(self.batch, default=1) * max(self.beams, default=1)

    def jobs(self, model: Seq2Seq) -> list[Job]:
        runner, found = _Answers(model, self.source, self.target), []
        for width in self.beams:
            for n in self.batch:
                name = f"{'greedy' if width == 1 else f'beams {width} x'} {n}"
                run = lambda n=n, width=width: in_turn(self.rounds, lambda seen: runner.run(n, width, seen))  # noqa: E731
                found.append(Job(name, name, n * self.target, run, n))
        return found

    def check(self, model: Seq2Seq) -> None:
        check(model, max(self.batch, default=2))


AnyPlan = Plan | EncoderPlan | Seq2SeqPlan


def bench_model(model: Model | Encoder | Seq2Seq, plan: AnyPlan, report: Report = lambda what: None) -> Result:
    """Measures a model that does nothing else meanwhile; report is called with what is measured next.

    Raises ParameterError if the plan does not fit the model, Error if the model computes something wrong.
    """
    info = model.info()
    if plan.positions() > info["context"]:
        raise ParameterError("context", expected=f"at least {plan.positions()} positions", found=str(info["context"]))
    return measure(info, plan, lambda: plan.check(model), plan.jobs(model), report)


def check(model: Model | Seq2Seq, n: int) -> None:
    """Finite logits, and the same greedy tokens alone and among n. Raises Error."""
    rng = np.random.default_rng(1)  # other prompts than those that are timed
    ids = _prompt(rng, model, min(_BATCH_CONTEXT, model.info()["context"]))
    asked = {"max_tokens": _CHECKED_STEPS, "ignore_eos": True}
    if isinstance(model, Seq2Seq):
        logits, asked = model.logits(ids, [model.config.decoder_start_id]), {**asked, "n_beams": 1}
    else:
        logits = model.logits(ids)
    if not np.isfinite(logits).all():
        raise Error("bench", expected="finite logits", found="NaN or infinity")
    alone = model.generate(token_ids=ids, **asked).token_ids
    companions = [_prompt(rng, model, len(ids)) for _ in range(n - 1)]
    together = model.generate(token_ids=[ids, *companions], **asked)[0].token_ids
    if together != alone:
        raise Error("bench", expected=f"the tokens {alone} in a batch of {n} too", found=str(together))


class _Steps:
    """Steps the engine itself: nobody else may use the model."""

    def __init__(self, model: Model | Seq2Seq) -> None:
        self._model, self._engine = model, model._engine
        self._rng = np.random.default_rng(0)

    def prefill(self, n_tokens: int, rounds: int) -> list[Run]:
        def run(observed: bool) -> Run:
            self._add(n_tokens, 1)
            return self._to_the_end(observed)

        return in_turn(rounds, run)

    def decode(self, n_sequences: int, context: int, steps: int) -> list[Run]:
        """Steps of sequences that begin with `context` tokens, without and with an observer, in turn."""
        requests = [self._add(context, _decoded(n_sequences, steps)) for _ in range(n_sequences)]
        begun = set()
        while len(begun) < n_sequences:
            begun |= {event.request for event in self._engine.step()}
        runs = [self._step(observed=i % 2 == 1) for i in range(2 * steps)]
        for request in requests:
            self._engine.cancel(request)
        return runs

    def _to_the_end(self, observed: bool) -> Run:
        steps = []
        while not self._engine.idle():
            steps.append(self._step(observed))
        return together(steps)

    def _step(self, observed: bool) -> Run:
        return timed(self._engine.step, self._engine.profile_step, observed)

    def _add(self, n_tokens: int, max_tokens: int) -> int:
        return self._engine.add(_prompt(self._rng, self._model, n_tokens), max_tokens=max_tokens, **GREEDY)[0]


class _Answers(_Steps):
    """Texts of `source` tokens to answers of `target` tokens, their reading included."""

    def __init__(self, model: Seq2Seq, source: int, target: int) -> None:
        super().__init__(model)
        self._source, self._target = source, target

    def run(self, n_texts: int, n_beams: int, observed: bool) -> Run:
        for _ in range(n_texts):
            self._engine.add(
                [self._model.config.decoder_start_id],
                source=_prompt(self._rng, self._model, self._source),
                max_tokens=self._target,
                beams=_core.BeamParams(width=n_beams),
                **GREEDY,
            )
        return self._to_the_end(observed)


def _texts(encoder: Encoder, name: str, lengths: list[int], rounds: int) -> Job:
    native, n_tokens = _program(encoder), sum(lengths)
    ids = np.random.default_rng(0).integers(0, encoder.config.vocab_size, n_tokens, np.int32)
    plain: Callable[[], object] = lambda: native.run(ids, np.array(lengths))  # noqa: E731
    observed = lambda: (None, native.profile(ids, np.array(lengths)))  # noqa: E731
    run = lambda: in_turn(rounds, lambda seen: timed(plain, observed, seen))  # noqa: E731
    return Job(name, name, n_tokens, run, len(lengths))


def _program(encoder: Encoder) -> _core.Encoder:
    """A head over the vocabulary is for single rows: of such a model the embedding counts."""
    usual, masks = encoder.embedding, encoder.config.head.task == "mask"
    return encoder._native(embedding_name(usual.pooling, usual.normalised) if masks else encoder.usual_program)


def _prompt(rng: np.random.Generator, model: Model | Seq2Seq, n_tokens: int) -> list[int]:
    """Random tokens, so that no two prompts share a prefix that a cache could hold."""
    return rng.integers(0, model.config.vocab_size, n_tokens).tolist()


def _decoded(n_sequences: int, steps: int) -> int:
    """Tokens that a sequence may be given: those that begin first have taken some when the last begins."""
    return n_sequences + 2 * steps + 1
