"""How fast a model runs here: prefill, decode alone and in a batch, each beside what the machine's limits allow.

The limit of an instruction is the longer of the times that its bytes (of weights and KV cache) take at the read
bandwidth and that its operations take at the peak of their arithmetic, both probed just before and just after. The
limit of a step is the sum over its instructions, which run one after the other; its share of the limit is that sum over
the time that the step took. csrc/ops/work.cc counts bytes and operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from ..errors import Error, ParameterError
from .limits import ROUNDS, Limits, measure_limits

if TYPE_CHECKING:
    from ..llm import Model

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
class Plan:
    """prefill: prompt lengths. decode: contexts of a sequence alone (0: one token). batch: sequences at once.

    rounds: prompts whose median counts. steps: decode steps whose median counts. limit_bytes: read by each probe.
    """

    prefill: Sequence[int] = (128, 512, 2048)
    decode: Sequence[int] = (0, 512, 2048)
    batch: Sequence[int] = (8, 32)
    rounds: int = 5
    steps: int = 32
    limit_bytes: int = 1 << 30
    limit_rounds: int = ROUNDS

    @classmethod
    def quick(cls, prefill: Sequence[int] = (128,), decode: Sequence[int] = (0,), batch: Sequence[int] = (8,)) -> Plan:
        """Seconds instead of minutes, and less certain figures."""
        return cls(prefill, decode, batch, rounds=3, steps=8, limit_bytes=256 << 20, limit_rounds=2)

    def positions(self) -> int:
        """The most that a sequence needs."""
        return max([*self.prefill, *self.decode, _BATCH_CONTEXT]) + _decoded(max(self.batch, default=1), self.steps)


@dataclass(frozen=True)
class OpTime:
    """All instructions of one kind in a step. arithmetic: "int8", "bf16" or "f32", of most of their operations.
    limit_share: None where nothing is counted for them."""

    op: str
    count: int
    seconds: float
    step_share: float
    bytes: int
    operations: int
    arithmetic: str
    limit_share: float | None


@dataclass(frozen=True)
class Figure:
    """seconds: of a prompt or of a decode step, the median. profiled_seconds, ops: of the median one of as many that an
    observer watched, by kind of instruction; a barrier behind each makes those slower. outside: the profiled seconds
    that belong to no instruction: scheduling, sampling, Python, and the observer's barriers.
    """

    name: str
    tokens: int
    seconds: float
    tokens_per_second: float
    limit_share: float
    profiled_seconds: float
    outside: float
    ops: tuple[OpTime, ...]


@dataclass(frozen=True)
class Result:
    """bandwidth in bytes/s, peaks in operations/s by kind of arithmetic: means of before and after."""

    bandwidth: float
    peaks: dict[str, float]
    figures: tuple[Figure, ...]


def bench_model(model: Model, plan: Plan, report: Callable[[str], None] = lambda what: None) -> Result:
    """Measures a model that does nothing else meanwhile; report is called with what is measured next.

    Raises ParameterError if the plan does not fit the model, Error if the model computes something wrong.
    """
    info = model.info()
    if plan.positions() > info["context"]:
        raise ParameterError("context", expected=f"at least {plan.positions()} positions", found=str(info["context"]))
    runner = _Runner(model)
    report("checking what the model computes")
    check(model, max(plan.batch, default=2))
    probe = {"n_bytes": plan.limit_bytes, "isa": info["isa"], "rounds": plan.limit_rounds}
    report("probing the limits")
    before = measure_limits(info["threads"], **probe)
    measured = []
    for n in plan.prefill:
        report(f"prefill of {n}")
        measured.append((f"prefill {n}", n, runner.prefill(n, plan.rounds)))
    for context in plan.decode:
        report(f"decode at context {context}")
        measured.append((f"decode at {context}", 1, runner.decode(1, max(context, 1), plan.steps)))
    for n in plan.batch:
        report(f"batch of {n}")
        measured.append((f"batch {n}", n, runner.decode(n, _BATCH_CONTEXT, plan.steps)))
    report("probing the limits again")
    limits = _Limits.between(before, measure_limits(info["threads"], **probe))
    figures = tuple(_figure(name, tokens, runs, limits) for name, tokens, runs in measured)
    return Result(limits.bandwidth, limits.peaks, figures)


def check(model: Model, n: int) -> None:
    """Finite logits, and the same greedy tokens alone and among n. Raises Error."""
    rng = np.random.default_rng(1)  # other prompts than those that are timed
    ids = _prompt(rng, model, _BATCH_CONTEXT)
    if not np.isfinite(model.logits(ids)).all():
        raise Error("bench", expected="finite logits", found="NaN or infinity")
    asked = {"max_tokens": _CHECKED_STEPS, "ignore_eos": True}
    alone = model.generate(token_ids=ids, **asked).token_ids
    companions = [_prompt(rng, model, _BATCH_CONTEXT) for _ in range(n - 1)]
    together = model.generate(token_ids=[ids, *companions], **asked)[0].token_ids
    if together != alone:
        raise Error("bench", expected=f"the tokens {alone} in a batch of {n} too", found=str(together))


@dataclass(frozen=True)
class _Run:
    """A prompt or a decode step: the seconds it took in all, and its instructions if they were observed."""

    seconds: float
    profile: list[_core.InstructionProfile]


class _Runner:
    """Steps the engine itself: nobody else may use the model."""

    def __init__(self, model: Model) -> None:
        self._model, self._engine = model, model._engine
        self._rng = np.random.default_rng(0)

    def prefill(self, n_tokens: int, rounds: int) -> list[_Run]:
        """Prompts without and with an observer, in turn."""
        runs = []
        for i in range(2 * rounds + 1):  # the first warms up
            self._add(n_tokens, 1)
            steps = []
            while not self._engine.idle():
                steps.append(self._step(observed=i % 2 == 0))
            runs.append(_Run(sum(s.seconds for s in steps), [at for s in steps for at in s.profile]))
        return runs[1:]

    def decode(self, n_sequences: int, context: int, steps: int) -> list[_Run]:
        """Steps of sequences that begin with `context` tokens, without and with an observer, in turn."""
        requests = [self._add(context, _decoded(n_sequences, steps)) for _ in range(n_sequences)]
        begun = set()
        while len(begun) < n_sequences:
            begun |= {event.request for event in self._engine.step()}
        runs = [self._step(observed=i % 2 == 1) for i in range(2 * steps)]
        for request in requests:
            self._engine.cancel(request)
        return runs

    def _step(self, observed: bool) -> _Run:
        started = time.perf_counter()
        profile = self._engine.profile_step()[1] if observed else []
        if not observed:
            self._engine.step()
        return _Run(time.perf_counter() - started, profile)

    def _add(self, n_tokens: int, max_tokens: int) -> int:
        return self._engine.add(_prompt(self._rng, self._model, n_tokens), max_tokens=max_tokens, **GREEDY)[0]


@dataclass(frozen=True)
class _Limits:
    bandwidth: float
    peaks: dict[str, float]

    @classmethod
    def between(cls, before: Limits, after: Limits) -> _Limits:
        def mean(name: str) -> float:
            return (getattr(before, name) + getattr(after, name)) / 2

        return cls(mean("best_bandwidth"), {kind: mean(kind) for kind in ("int8", "bf16", "f32")})

    def seconds(self, at: _core.InstructionProfile) -> float:
        """The least that an instruction can take; float32 does what a CPU has no other instructions for."""
        return max(at.bytes / self.bandwidth, at.operations / (self.peaks[at.arithmetic.name] or self.peaks["f32"]))


def _prompt(rng: np.random.Generator, model: Model, n_tokens: int) -> list[int]:
    """Random tokens, so that no two prompts share a prefix that a cache could hold."""
    return rng.integers(0, model.config.vocab_size, n_tokens).tolist()


def _decoded(n_sequences: int, steps: int) -> int:
    """Tokens that a sequence may be given: those that begin first have taken some when the last begins."""
    return n_sequences + 2 * steps + 1


def _median(runs: list[_Run]) -> _Run:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _figure(name: str, tokens: int, runs: list[_Run], limits: _Limits) -> Figure:
    seconds = _median([run for run in runs if not run.profile]).seconds
    observed = _median([run for run in runs if run.profile])
    return Figure(
        name=name,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        limit_share=sum(limits.seconds(at) for at in observed.profile) / seconds,
        profiled_seconds=observed.seconds,
        outside=observed.seconds - sum(at.seconds for at in observed.profile),
        ops=_by_op(observed, limits),
    )


def _by_op(run: _Run, limits: _Limits) -> tuple[OpTime, ...]:
    """Longest first."""
    groups: dict[str, list[_core.InstructionProfile]] = {}
    for at in run.profile:
        groups.setdefault(at.op, []).append(at)
    times = []
    for op, group in groups.items():
        seconds, least = sum(at.seconds for at in group), sum(limits.seconds(at) for at in group)
        n_bytes, operations = sum(at.bytes for at in group), sum(at.operations for at in group)
        share = least / seconds if least else None
        arithmetic = max(group, key=lambda at: at.operations).arithmetic.name
        times.append(OpTime(op, len(group), seconds, seconds / run.seconds, n_bytes, operations, arithmetic, share))
    return tuple(sorted(times, key=lambda t: -t.seconds))
