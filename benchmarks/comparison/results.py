"""From runs to figures: rates, ratios within a round, shares of the limit.

The limit of a part of a run is the longer of two times: bytes / bandwidth and operations / int8 peak, both probed just
before and just after. Bytes are those of weights, once a step, and of keys and values; operations are two for each
multiply-add of matmul and attention, as if all were int8. jiffy counts both (csrc/ops/work.cc). For a peer the
operations and the keys and values are jiffy's, and the weights are its own file, where all of that is read in a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from .plan import Contestant, Row
from .rounds import Measured, Record


@dataclass(frozen=True)
class Figure:
    """rates: tokens/s, or what else is counted, by round, each the median of a round's runs. shares: of the limit, by
    round, None without a count of work. bandwidths, peaks: what those limits rest on, in bytes/s and operations/s."""

    name: str
    contestant: str
    rates: dict[int, float]
    shares: dict[int, float] | None
    bandwidths: dict[int, float]
    peaks: dict[int, float]

    @property
    def rate(self) -> float:
        return median(self.rates.values())

    @property
    def share(self) -> float | None:
        return median(self.shares.values()) if self.shares else None

    def ratio_to(self, other: Figure) -> float | None:
        """The median over the rounds that both have: seconds apart, so that both met the same machine."""
        ratios = [rate / other.rates[n] for n, rate in self.rates.items() if n in other.rates]
        return median(ratios) if ratios else None


@dataclass(frozen=True)
class Loads:
    """Seconds: of the first round, and the median of later ones. peak_bytes: resident, after all rows."""

    contestant: str
    first: float
    again: float | None
    peak_bytes: int


def figures(record: Record, rows: tuple[Row, ...], contestants: list[Contestant]) -> list[Figure]:
    """In the order of rows, then contestants."""
    found = []
    for row in rows:
        for part, name in row.figures.items():
            for contestant in contestants:
                runs = [m for m in record.measured if (m.row, m.contestant) == (row.name, contestant.name)]
                if runs:
                    found.append(_figure(name, part, row, contestant, runs, record))
    return found


def rates(part: str, row: Row, generations: list[dict[str, float]]) -> list[float]:
    """Of each run tokens/s of its "prefill" or "decode", sequences/s of "encode", target tokens/s of "translate"."""
    at_once = {"prefill": row.batch * row.prompt, "encode": row.batch, "translate": row.batch * row.new}
    if part in at_once:
        return [at_once[part] / g["first"] for g in generations]
    return [g["later_tokens"] / (g["last"] - g["first"]) for g in generations]


def loads(record: Record, contestants: list[Contestant]) -> Iterator[Loads]:
    for contestant in contestants:
        about = record.about.get(contestant.name)
        if about:
            first, *later = [a["load_seconds"] for a in about]
            peak = record.peak_bytes.get(contestant.name, about[0]["peak_bytes"])
            yield Loads(contestant.name, first, median(later) if later else None, peak)


def _figure(name: str, part: str, row: Row, contestant: Contestant, runs: list[Measured], record: Record) -> Figure:
    by_round = {m.round: median(rates(part, row, m.generations)) for m in runs}
    bandwidths = {m.round: (m.before.bandwidth + m.after.bandwidth) / 2 for m in runs}
    peaks = {m.round: (m.before.int8 + m.after.int8) / 2 for m in runs}
    work = _work(part, row, contestant, record)
    shares = None
    if work:
        shares = {n: by_round[n] * _seconds_per_token(work, bandwidths[n], peaks[n]) for n in by_round}
    return Figure(name, contestant.name, by_round, shares, bandwidths, peaks)


def _work(part: str, row: Row, contestant: Contestant, record: Record) -> dict[str, float] | None:
    counted = [work[row.name][part] for work in record.work.values() if part in work.get(row.name, {})]
    own = record.work.get(contestant.name, {}).get(row.name)
    if own:
        return own[part]
    lent = next(iter(counted), None)
    weight_bytes = record.about[contestant.name][0]["weight_bytes"]
    if lent is None or weight_bytes is None:
        return None
    steps = lent["steps"] if part == "decode" else 1
    return {**lent, "weight_bytes": steps * weight_bytes}


def _seconds_per_token(work: dict[str, float], bandwidth: float, peak: float) -> float:
    n_bytes = work["weight_bytes"] + work["kv_bytes"]
    return max(n_bytes / bandwidth, work["operations"] / peak) / work["tokens"]
