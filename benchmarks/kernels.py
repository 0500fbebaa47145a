#!/usr/bin/env python3
"""Times the matmul kernels over weights that come from memory: kernels.py [--rows 1 64] [--formats i4 i8]

Each figure is the median of several passes over more than 512 MB of distinct weights, beside the read bandwidth and the
peak of the format's arithmetic, both probed just before and just after. The result is checked against float64 first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from jiffy import _core
from jiffy.bench.limits import Limits, measure_limits

SHAPES = [(2048, 2048), (8192, 2048)]
BYTES = 512 << 20  # of distinct weights: far more than any cache holds
OPERATIONS = 2e11  # of one pass at most: many rows need not see all the weights to be timed


def make_weights(n: int, k: int, fmt: str, pool: _core.ThreadPool) -> list[_core.Weight]:
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 0.02, (n, k)).astype(np.float32).view(np.uint8)
    weights: list[_core.Weight] = []
    while not weights or len(weights) * weights[0].n_bytes <= BYTES:
        weights.append(_core.Weight(f"w{len(weights)}", n, k, fmt))
        weights[-1].pack_rows(0, raw, "f32", pool)
    return weights


def check(weight: _core.Weight, pool: _core.ThreadPool, isa: str) -> None:
    """Within what rounding activations can change: max|x| / 254 for int8, |x| / 256 for bf16, times each weight."""
    x = np.random.default_rng(1).normal(size=(3, weight.cols)).astype(np.float32)
    w = weight.unpack().astype(np.float64)
    error_of_x = np.abs(x) / 256 if weight.format == "bf16" else np.abs(x).max(axis=1, keepdims=True) / 254
    bound = np.broadcast_to(error_of_x, x.shape) @ np.abs(w).T * 1.001
    error = np.abs(_core.matmul([weight], x, pool, isa) - x @ w.T)
    assert (error <= bound).all(), f"{weight.format}: wrong by {error.max()}"


def passes(weights: list[_core.Weight], x: np.ndarray, pool: _core.ThreadPool, isa: str, rounds: int) -> float:
    """Median seconds of one matmul."""
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        _core.matmul(weights, x, pool, isa)
        seconds.append((time.perf_counter() - started) / len(weights))
    return statistics.median(seconds[1:])


def row_of(weights: list[_core.Weight], rows: int, threads: int, isa: str, rounds: int) -> str:
    pool = _core.ThreadPool(threads)
    n, k = weights[0].rows, weights[0].cols
    x = np.random.default_rng(2).normal(size=(rows, k)).astype(np.float32)
    count = max(4, min(len(weights), int(OPERATIONS / (2 * rows * n * k))))
    before = measure_limits(threads, 512 << 20, isa, rounds=3)
    seconds = passes(weights[:count], x, pool, isa, rounds)
    after = measure_limits(threads, 512 << 20, isa, rounds=3)
    gbs, tops = weights[0].n_bytes / seconds / 1e9, 2 * rows * n * k / seconds / 1e12
    read, peak = mean_of(before, after, "best_bandwidth") / 1e9, peak_of(weights[0].format, before, after) / 1e12
    return (
        f"{isa:>7} {f'{n}x{k}':>10} {weights[0].format:>8} {rows:>5} {seconds * 1e6:>9.1f} {gbs:>7.1f} "
        f"{gbs / read:>6.0%} {read:>7.1f} {tops:>7.3f} {tops / peak:>6.0%} {peak:>7.3f}"
    )


def peak_of(fmt: str, before: Limits, after: Limits) -> float:
    """Operations/s; without an instruction for bf16, it is widened to f32."""
    if fmt.startswith("i"):
        return mean_of(before, after, "int8")
    return mean_of(before, after, "bf16") if fmt == "bf16" and before.bf16 else mean_of(before, after, "f32")


def mean_of(before: Limits, after: Limits, name: str) -> float:
    return (getattr(before, name) + getattr(after, name)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--formats", nargs="+", default=["i4", "i4a", "i4g128", "i8", "bf16"])
    parser.add_argument("--threads", type=int, default=_core.cpu_info().default_threads)
    parser.add_argument("--isas", nargs="+", default=_core.isas()[-1:])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    titles = ("isa", "n x k", "format", "rows", "us", "GB/s", "share", "of", "TOPS", "share", "of")
    print("{:>7} {:>10} {:>8} {:>5} {:>9} {:>7} {:>6} {:>7} {:>7} {:>6} {:>7}".format(*titles))
    pool = _core.ThreadPool(args.threads)
    for n, k in SHAPES:
        for fmt in args.formats:
            weights = make_weights(n, k, fmt, pool)
            for isa in args.isas:
                check(weights[0], pool, isa)
                for rows in args.rows:
                    print(row_of(weights, rows, args.threads, isa, args.rounds), flush=True)


if __name__ == "__main__":
    main()
