"""Measurements beside what the machine's limits allow, whatever is measured.

The limit of an instruction is the longer of the times that its bytes (of weights and KV cache) take at the read
bandwidth and that its operations take at the peak of their arithmetic, both probed just before and just after. The
limit of a step is the sum over its instructions, which run one after the other; its share of the limit is that sum over
the time that the step took. csrc/ops/work.cc counts bytes and operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .limits import ROUNDS, Limits, measure_limits

if TYPE_CHECKING:
    from .. import _core

Report = Callable[[str], None]
T = TypeVar("T")
QUICK = {"rounds": 3, "limit_bytes": 256 << 20, "limit_rounds": 2}


@dataclass(frozen=True, kw_only=True)
class Effort:
    """rounds: runs whose median counts. limit_bytes: read by each probe."""

    rounds: int = 5
    limit_bytes: int = 1 << 30
    limit_rounds: int = ROUNDS


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
    """texts: how many there were, None where nobody counts them. seconds: of a run - a prompt, a decode step, a batch
    of texts -, the median. profiled_seconds, ops: of the median one of as many that an observer watched, by kind of
    instruction; a barrier behind each makes those slower. outside: the profiled seconds that belong to no instruction:
    scheduling, sampling, Python, and the observer's barriers.
    """

    name: str
    tokens: int
    texts: int | None
    seconds: float
    tokens_per_second: float
    texts_per_second: float | None
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


@dataclass(frozen=True)
class Run:
    """The seconds that it took in all, and its instructions if they were observed."""

    seconds: float
    profile: list[_core.InstructionProfile]


@dataclass(frozen=True)
class Job:
    """What is to be measured. run: with and without an observer, both more than once. tokens, texts: of each run."""

    name: str
    title: str
    tokens: int
    run: Callable[[], list[Run]]
    texts: int | None = None


def measure(
    info: dict[str, object], effort: Effort, check: Callable[[], None], jobs: Sequence[Job], report: Report
) -> Result:
    """report is called with what is measured next. Raises Error if `check` finds something wrong."""
    report("checking what the model computes")
    check()
    probe = {"n_bytes": effort.limit_bytes, "isa": info["isa"], "rounds": effort.limit_rounds}
    report("probing the limits")
    before = measure_limits(info["threads"], **probe)
    measured = []
    for job in jobs:
        report(job.title)
        measured.append((job, job.run()))
    report("probing the limits again")
    limits = _Limits.between(before, measure_limits(info["threads"], **probe))
    return Result(limits.bandwidth, limits.peaks, tuple(_figure(job, runs, limits) for job, runs in measured))


def timed(
    plain: Callable[[], object], observed: Callable[[], tuple[T, list[_core.InstructionProfile]]], watched: bool
) -> Run:
    started = time.perf_counter()
    profile = observed()[1] if watched else []
    if not watched:
        plain()
    return Run(time.perf_counter() - started, profile)


def together(runs: Sequence[Run]) -> Run:
    """Several, one after the other, as one."""
    return Run(sum(run.seconds for run in runs), [at for run in runs for at in run.profile])


def in_turn(rounds: int, run: Callable[[bool], Run]) -> list[Run]:
    """Without and with an observer; the first of all warms up."""
    return [run(i % 2 == 0) for i in range(2 * rounds + 1)][1:]


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


def _median(runs: list[Run]) -> Run:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _figure(job: Job, runs: list[Run], limits: _Limits) -> Figure:
    seconds = _median([run for run in runs if not run.profile]).seconds
    observed = _median([run for run in runs if run.profile])
    return Figure(
        name=job.name,
        tokens=job.tokens,
        texts=job.texts,
        seconds=seconds,
        tokens_per_second=job.tokens / seconds,
        texts_per_second=None if job.texts is None else job.texts / seconds,
        limit_share=sum(limits.seconds(at) for at in observed.profile) / seconds,
        profiled_seconds=observed.seconds,
        outside=observed.seconds - sum(at.seconds for at in observed.profile),
        ops=_by_op(observed, limits),
    )


def _by_op(run: Run, limits: _Limits) -> tuple[OpTime, ...]:
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
