#!/usr/bin/env python3
"""What is left of jiffy's speed where its threads don't have the cores for themselves: contention.py [MODEL]

All runs share as many CPUs as --threads says (2). Three cases take turns, round after round, each measured at prefill
of 512 tokens, decode, and 8 sequences at once; medians over the rounds.

    case                fair share of the speed alone
    alone               1
    one thread more     1      threads + 1 lanes on the same CPUs: the work and the cores are the same
    busy neighbour      3/4    (of 2 CPUs; in general 1 - 1 / (2 threads)): a process that never rests takes half of the
                               CPU that it sits on

A case that loses more than --tolerance (0.4) against its fair share fails, and with it the command: threads that spin
at a barrier while the one that they wait for has no core lose nearly all. "CPU of the neighbour" is what it got
meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import jiffy
from comparison.fill import fill, markdown
from comparison.kinds import LANGUAGE
from comparison.plan import Row, jiffy_contestant
from comparison.process import Driver, DriverError
from comparison.results import rates
from jiffy import _core
from jiffy.cli.options import print_table
from jiffy.hub import resolve_model

_ROWS = [row for row in LANGUAGE.rows if row.name in ("prefill-512", "decode", "batch-8")]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Case:
    """rates: tokens/s of all runs, by figure. neighbour: seconds of CPU a second that it got, run by run."""

    name: str
    driver: Driver
    fair: float
    has_neighbour: bool
    rates: dict[str, list[float]] = field(default_factory=dict)
    neighbour: list[float] = field(default_factory=list)

    def share(self, figure: str, alone: Case) -> float:
        """Of the fair share of the speed alone."""
        return median(self.rates[figure]) / (self.fair * median(alone.rates[figure]))

    def measure(self, row: Row, timeout: float) -> None:
        with busy_neighbour(self.has_neighbour) as used:
            before, started = used(), time.perf_counter()
            answer = self.driver.ask({"run": row.request()}, timeout)
            self.neighbour.append((used() - before) / (time.perf_counter() - started))
        for part, figure in row.figures.items():
            self.rates.setdefault(figure, []).extend(rates(part, row, answer["generations"]))


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # drivers that are stopped would outlive this process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="smollm2-135m if not given")
    parser.add_argument("--weights", default="file", help="format; as in the file if not given")
    parser.add_argument("--threads", type=int, default=min(2, _core.cpu_info().usable_cpus))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tolerance", type=float, default=0.4)
    parser.add_argument("--into", type=Path, metavar="FILE", help="fill the table of this document")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="for one run")
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])  # drivers and the neighbour inherit it
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = _cases(given, folder, stack)
        for number in range(given.rounds):
            for row in _ROWS:
                for case in cases:
                    print(f"round {number + 1}: {row.name}, {case.name}", end="\033[K\r", file=sys.stderr)
                    case.measure(row, given.timeout)
    print(end="\033[K", file=sys.stderr)
    columns, rows = _table(cases)
    print_table("", columns, rows)
    if given.into:
        fill(given.into, "contention", f"{_about(given)}\n\n{markdown(columns, rows)}")
    return _told(cases, given.tolerance)


@contextmanager
def busy_neighbour(wanted: bool) -> Iterator[Callable[[], float]]:
    """Yields a function that says how many seconds of CPU it has had; 0 without one."""
    if not wanted:
        yield lambda: 0.0
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        yield lambda: _cpu_seconds(process.pid)
    finally:
        process.kill()
        process.wait()


def _cpu_seconds(pid: int) -> float:
    """utime and stime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _cases(given: argparse.Namespace, folder: Path, stack: ExitStack) -> list[Case]:
    model = str(resolve_model(given.model))

    def driver(threads: int) -> Driver:
        contestant = jiffy_contestant(LANGUAGE, given.weights, model, threads)
        made = Driver(contestant, threads, folder / f"{threads}.log", {})
        stack.callback(made.close)
        made.loaded(given.timeout)
        return made

    usual, more = driver(given.threads), driver(given.threads + 1)
    return [
        Case("alone", usual, 1, False),
        Case("one thread more", more, 1, False),
        Case("busy neighbour", usual, 1 - 1 / (2 * given.threads), True),
    ]


def _about(given: argparse.Namespace) -> str:
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    model = Path(resolve_model(given.model)).name
    return f"{model}, weights {given.weights}, {given.threads} CPUs of {_core.cpu_info().name}, {date}."


def _table(cases: list[Case]) -> tuple[list[str], list[tuple[str, ...]]]:
    alone, *others = cases
    figures = list(alone.rates)
    rows = [(alone.name, *(f"{median(alone.rates[f]):.1f}" for f in figures), "1", "")]
    for case in others:
        cells = [f"{median(case.rates[f]):.1f} ({case.share(f, alone):.0%} of fair)" for f in figures]
        neighbour = f"{median(case.neighbour):.2f}" if case.has_neighbour else ""
        rows.append((case.name, *cells, f"{case.fair:.2f}", neighbour))
    return ["tokens/s", *figures, "fair share", "CPU of the neighbour"], rows


def _told(cases: list[Case], tolerance: float) -> int:
    """Prints what lost too much; returns the exit status."""
    alone, *others = cases
    lost = [
        f"{case.name}, {figure}: {1 - case.share(figure, alone):.0%} lost"
        for case in others
        for figure in alone.rates
        if case.share(figure, alone) < 1 - tolerance
    ]
    for line in lost:
        print(line)
    return 1 if lost else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (DriverError, jiffy.Error) as error:
        sys.exit(f"contention: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
