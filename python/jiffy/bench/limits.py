"""What this machine can do at best: how fast memory is read, how many multiply-adds a second there are.

Decode is bound by the first, prefill by the second; all other figures are quoted as shares of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from .. import _core

PATTERNS = (1, 2, 4)  # streams that a thread reads side by side
ROUNDS = 5
_PEAK_SECONDS = 0.1  # of one measurement: long enough for the clock to settle


@dataclass(frozen=True)
class Limits:
    """Of a number of threads. bandwidth: bytes/s by streams a thread; peaks: operations/s, 0 without an instruction."""

    n_threads: int
    bandwidth: dict[int, float]
    int8: float
    bf16: float
    f32: float

    @property
    def best_bandwidth(self) -> float:
        return max(self.bandwidth.values())


class Probe:
    """A pool and memory to measure the limits with, as often as one likes. Raises OutOfMemory."""

    def __init__(self, pool: _core.ThreadPool, n_bytes: int) -> None:
        self.pool = pool
        self._buffer = _core.ProbeBuffer(pool, n_bytes)

    def bandwidth(self, streams: int, isa: str = "auto", rounds: int = ROUNDS) -> float:
        """Bytes/s with so many streams a thread."""
        return _median_rate(lambda: _core.read_pass(self.pool, self._buffer, streams, isa), rounds)

    def peak(self, kind: str, isa: str = "auto", rounds: int = ROUNDS, seconds: float = _PEAK_SECONDS) -> float:
        """Operations/s of int8, bf16 or f32 multiply-adds; 0 without an instruction for them."""
        arithmetic, repeats = getattr(_core.Arithmetic, kind), 1 << 16
        started = time.perf_counter()
        _core.peak_pass(self.pool, arithmetic, repeats, isa)
        repeats = max(1, int(repeats * seconds / (time.perf_counter() - started)))
        return _median_rate(lambda: _core.peak_pass(self.pool, arithmetic, repeats, isa), rounds)


def measure_limits(n_threads: int, n_bytes: int = 1 << 30, isa: str = "auto", rounds: int = ROUNDS) -> Limits:
    """Medians of `rounds`: each pattern reads n_bytes of huge pages; peaks run 0.1 s each.

    Raises OutOfMemory, ParameterError.
    """
    probe = Probe(_core.ThreadPool(n_threads), n_bytes)
    bandwidth = {streams: probe.bandwidth(streams, isa, rounds) for streams in PATTERNS}
    return Limits(n_threads, bandwidth, **{kind: probe.peak(kind, isa, rounds) for kind in ("int8", "bf16", "f32")})


def _median_rate(work: Callable[[], int], rounds: int) -> float:
    """Units a second, where work() returns the units it did; the first run only warms up."""
    work()
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        units = work()
        rates.append(units / (time.perf_counter() - started))
    return statistics.median(rates)
