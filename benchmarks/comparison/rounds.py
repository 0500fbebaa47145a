"""The measurement: whole rounds, in each of which all contestants load afresh and take turns row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jiffy import _core
from jiffy.bench.limits import PATTERNS, Probe

from .plan import Contestant, Row
from .process import Driver, DriverError

_CHECKED_BATCH = 8
_LEAST_COSINE = 0.95  # of an encoder's rows in two formats; rows of other texts are far from it


@dataclass(frozen=True)
class Probed:
    """bandwidth in bytes/s; int8 in operations/s."""

    bandwidth: float
    int8: float


@dataclass(frozen=True)
class Measured:
    """One run of a contestant; before and after lie within a second of it."""

    round: int
    row: str
    contestant: str
    generations: list[dict[str, float]]
    before: Probed
    after: Probed


@dataclass
class Record:
    """All that was measured. about: what a driver said when it had loaded, by contestant and round. work: by contestant
    and row, for jiffy. errors: by contestant."""

    measured: list[Measured] = field(default_factory=list)
    about: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    work: dict[str, dict[str, Any]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """folder: for logs. timeout: seconds that one answer may take."""

    rounds: int
    threads: int
    folder: Path
    timeout: float
    probe_bytes: int
    environment: dict[str, str]


class Comparison:
    def __init__(self, rows: tuple[Row, ...], contestants: list[Contestant], settings: Settings) -> None:
        self.record = Record()
        self._rows, self._contestants, self._settings = rows, contestants, settings
        self._report: Callable[[str], None] = lambda what: None
        self._probe = Probe(_core.ThreadPool(settings.threads), settings.probe_bytes)

    def steps(self) -> int:
        a_round = sum(1 + sum(c.takes(row) for row in self._rows) for c in self._contestants)
        return self._settings.rounds * a_round + sum(c.is_jiffy for c in self._contestants)

    def run(self, report: Callable[[str], None]) -> Iterator[None]:
        """Yields behind each round. report(what) is called before each of the steps()."""
        self._report = report
        for number in range(1, self._settings.rounds + 1):
            with ExitStack() as stack:
                self._round(number, stack)
            yield

    def _round(self, number: int, stack: ExitStack) -> None:
        drivers = {}
        for contestant in self._contestants:
            if contestant.name not in self.record.errors:
                self._report(f"round {number}: {contestant.name} loads")
                self._guarded(contestant, lambda c=contestant: drivers.update({c.name: self._load(c, stack)}))
        if number == 1:
            self._check(drivers)
        before = self._probed()
        for i, row in enumerate(self._rows):
            taking = [c for c in self._contestants if c.takes(row)]
            for contestant in taking if (number + i) % 2 else reversed(taking):
                if contestant.name in self.record.errors:
                    continue
                self._report(f"round {number}: {row.name}, {contestant.name}")
                answers: list[dict[str, Any]] = []
                self._guarded(contestant, lambda c=contestant, r=row, a=answers: a.append(self._ask(drivers, c, r)))
                after = self._probed()
                for answer in answers:
                    measured = Measured(number, row.name, contestant.name, answer["generations"], before, after)
                    self.record.measured.append(measured)
                before = after

    def _load(self, contestant: Contestant, stack: ExitStack) -> Driver:
        s = self._settings
        log = s.folder / f"{contestant.name.replace(' ', '-').replace(',', '').replace('/', '-')}.log"
        driver = Driver(contestant, s.threads, log, s.environment)
        stack.callback(driver.close)
        about = driver.loaded(s.timeout)
        self.record.about.setdefault(contestant.name, []).append(about)
        return driver

    def _check(self, drivers: dict[str, Driver]) -> None:
        """jiffy's results are right before they are timed; and what each of its rows reads and computes."""
        computed: dict[str, np.ndarray] = {}
        for contestant in self._contestants:
            if contestant.is_jiffy and contestant.name in drivers:
                self._report(f"checking what {contestant.name} computes")
                self._guarded(contestant, lambda c=contestant: self._check_one(drivers[c.name], c, computed))

    def _check_one(self, driver: Driver, contestant: Contestant, computed: dict[str, np.ndarray]) -> None:
        """computed: the rows of one text by those that have been checked, where a driver gives them."""
        answer = driver.ask({"check": _CHECKED_BATCH}, self._settings.timeout)
        if "rows" in answer:
            rows = np.array(answer["rows"])
            for other, theirs in computed.items():
                _check_alike(rows, theirs, other)
            computed[contestant.name] = rows
        for row in filter(contestant.takes, self._rows):
            work = driver.ask({"work": row.counted()}, self._settings.timeout)["work"]
            self.record.work.setdefault(contestant.name, {})[row.name] = work

    def _ask(self, drivers: dict[str, Driver], contestant: Contestant, row: Row) -> dict[str, Any]:
        answer = drivers[contestant.name].ask({"run": row.request()}, self._settings.timeout)
        peaks = self.record.peak_bytes
        peaks[contestant.name] = max(peaks.get(contestant.name, 0), answer["peak_bytes"])
        return answer

    def _guarded(self, contestant: Contestant, work: Callable[[], None]) -> None:
        """An error ends a contestant's part, not the comparison."""
        try:
            work()
        except (DriverError, OSError, ValueError) as error:
            self.record.errors[contestant.name] = str(error)

    def _probed(self) -> Probed:
        bandwidth = max(self._probe.bandwidth(streams, rounds=2) for streams in PATTERNS)
        return Probed(bandwidth, self._probe.peak("int8", rounds=2, seconds=0.05))


def _check_alike(rows: np.ndarray, others: np.ndarray, name: str) -> None:
    """Raises ValueError for rows that point elsewhere than those of another format."""
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    cosine = float(((rows * others).sum(axis=1) / lengths).min())
    if not cosine >= _LEAST_COSINE:
        raise ValueError(f"rows are not those of {name}: a cosine of {cosine:.3f}")
