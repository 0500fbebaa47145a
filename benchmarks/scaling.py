#!/usr/bin/env python3
"""jiffy on 1, 2, ... threads as measured here, and on up to 64 on paper: scaling.py MODEL [--into docs/performance.md]

Measures decode (context 0 and 2048) and prefill of 512 tokens with 1 thread and with all that --threads says, and the
limits and the barrier of this machine with them. The paper (comparison/scaling.py) takes the times of all those threads
and says what more of such cores would make of them. What a machine of another size has and this one can't tell is
assumed: --socket-bandwidth and --arrival.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from statistics import median

import numpy as np

import jiffy
from comparison.fill import fill, markdown
from comparison.scaling import Expected, Machine, expected
from jiffy import _core
from jiffy.bench.measuring import Figure, Result
from jiffy.bench.model import Plan, bench_model

_PLAN = Plan(prefill=(512,), decode=(0, 2048), batch=(), rounds=3, limit_rounds=3)
_COLUMNS = [
    "threads",
    "tokens/s",
    "x of 1 thread",
    "of the limit",
    "in barriers",
    "in uneven shares",
    "in the rest",
]
_LANES = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--weights", default="i4")
    parser.add_argument("--threads", type=int, default=_core.cpu_info().default_threads)
    parser.add_argument("--socket-bandwidth", type=float, default=370e9, help="bytes/s; default: %(default).0f")
    parser.add_argument("--arrival", type=float, default=80e-9, help="seconds a lane; default: %(default)s")
    parser.add_argument("--into", type=Path, metavar="FILE", help="fill the tables of this document")
    given = parser.parse_args()
    measured = {n: measure(given.model, given.weights, n) for n in sorted({1, given.threads})}
    config = jiffy.load(given.model, weights=given.weights, progress=False).config
    machine = machine_of(measured[given.threads], given.threads, given.socket_bandwidth, given.arrival)
    text = "\n".join([*about(given, measured, machine), *tables(measured, config, machine)]) + "\n"
    if given.into:
        fill(given.into, "scaling", text)
    print(text)


def measure(model: str, weights: str, threads: int) -> Result:
    print(f"measuring {threads} thread{'s' * (threads > 1)}", file=sys.stderr)
    return bench_model(jiffy.load(model, weights=weights, n_threads=threads), _PLAN)


def machine_of(result: Result, threads: int, socket_bandwidth: float, arrival: float) -> Machine:
    peaks = {kind: peak / threads for kind, peak in result.peaks.items()}
    return Machine(result.bandwidth / threads, socket_bandwidth, peaks, barrier_seconds(threads), arrival)


def barrier_seconds(threads: int, repeats: int = 5000) -> float:
    """Between two lanes, out of what a step of next to nothing takes."""
    pool, x = _core.ThreadPool(threads), np.zeros((1, 16), np.float32)
    work = [_core.argmax_rows(x, np.zeros(1, np.int64))]
    return median(_core.run_all(work, pool, repeats=repeats) / repeats for _ in range(9)) * 2 / max(threads, 2)


def about(given: argparse.Namespace, measured: dict[int, Result], machine: Machine) -> list[str]:
    info = _core.cpu_info()
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    probes = "; ".join(
        f"{n} thread{'s' * (n > 1)}: {r.bandwidth / 1e9:.1f} GB/s, int8 {r.peaks['int8'] / 1e12:.2f} TOPS, "
        f"f32 {r.peaks['f32'] / 1e12:.2f} TFLOPS"
        for n, r in measured.items()
    )
    return [
        f"{Path(given.model).name}, weights {given.weights}, on {info.name}, {date}. "
        f"Limits probed meanwhile: {probes}. "
        f"A barrier of two lanes: {machine.barrier * 1e6:.2f} us.",
    ]


def tables(measured: dict[int, Result], config: jiffy.config.Config, machine: Machine) -> list[str]:
    lines = []
    threads = max(measured)
    for i, figure in enumerate(measured[threads].figures):
        rows = figure.tokens
        lines += ["", f"**{figure.name}**, {sum(op.count for op in figure.ops)} instructions, each with a barrier:", ""]
        one = measured[1].figures[i].tokens_per_second
        paper = [expected(figure, rows, config, machine, threads, n) for n in _LANES]
        cells = [_measured_row(n, result.figures[i], one) for n, result in measured.items()]
        cells += [_expected_row(rows, e, rows / paper[0].seconds) for e in paper]
        lines.append(markdown(_COLUMNS, cells).rstrip())
    return lines


def _measured_row(n: int, figure: Figure, one: float) -> tuple[str, ...]:
    rate = figure.tokens_per_second
    return f"{n}, measured", f"{rate:.1f}", f"{rate / one:.2f}", f"{figure.limit_share:.0%}", "", "", ""


def _expected_row(rows: int, e: Expected, one: float) -> tuple[str, ...]:
    rate = rows / e.seconds
    parts = [f"{seconds / e.seconds:.0%}" for seconds in (e.barriers, e.uneven, e.rest)]
    return f"{e.lanes}, on paper", f"{rate:.1f}", f"{rate / one:.2f}", f"{e.limit_share:.0%}", *parts


if __name__ == "__main__":
    main()
