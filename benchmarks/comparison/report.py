"""What remains of a comparison: tables in a terminal and in Markdown, JSON, CSV."""

from __future__ import annotations

import csv
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jiffy.cli.options import print_table

from .fill import markdown
from .plan import Contestant
from .results import Figure, Loads
from .rounds import Record

Table = tuple[list[str], list[tuple[str, ...]]]


@dataclass(frozen=True)
class Report:
    """head: what, where, when, by which command. unit: of the rates."""

    head: dict[str, str]
    unit: str
    contestants: list[Contestant]
    figures: list[Figure]
    loads: list[Loads]
    record: Record

    def rates(self) -> Table:
        """Rates and the share of the limit, a column for each contestant."""
        columns = [f"{self.unit} (of the limit)", *self._names(), "GB/s probed"]
        rows = []
        for name in self._figure_names():
            cells = [_rate_cell(self.find(name, c)) for c in self._names()]
            probed = [b for f in self.figures if f.name == name for b in f.bandwidths.values()]
            rows.append((name, *cells, f"{min(probed) / 1e9:.0f} to {max(probed) / 1e9:.0f}"))
        loads = {load.contestant: load for load in self.loads}
        rows += [(what, *(cell(loads.get(c)) for c in self._names()), "") for what, cell in _LOAD_ROWS.items()]
        return columns, rows

    def ratios(self) -> Table:
        """jiffy's rates over those of each peer."""
        pairs = [(c.name, peer) for c in self.contestants if c.is_jiffy for peer in self.peers()]
        rows = []
        for name in self._figure_names():
            figures = [(self.find(name, a), self.find(name, b)) for a, b in pairs]
            rows.append((name, *(_ratio_cell(a, b) for a, b in figures)))
        return ["ratio", *(f"{a} / {b}" for a, b in pairs)], rows

    def peers(self) -> list[str]:
        return [c.name for c in self.contestants if not c.is_jiffy]

    def find(self, name: str, contestant: str) -> Figure | None:
        return next((f for f in self.figures if (f.name, f.contestant) == (name, contestant)), None)

    def print(self) -> None:
        """Contestants below one another: there may be more of them than a terminal is wide."""
        for table in (self.rates(), self.ratios()):
            columns, rows = _transposed(table)
            if len(columns) > 1 and rows:
                print_table("", columns, rows)
        for name, error in self.record.errors.items():
            print(f"{name} failed: {error}")

    def markdown(self) -> str:
        lines = [f"- {what}: {value}" for what, value in self.head.items()]
        for columns, rows in (self.rates(), self.ratios()):
            if len(columns) > 1 and rows:
                lines += ["", markdown(columns, rows).rstrip()]
        lines += [""] if self.record.errors else []
        lines += [f"{name} failed: {error}" for name, error in self.record.errors.items()]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """results.json, results.csv and results.md."""
        facts = {
            "head": self.head,
            "figures": [dataclasses.asdict(f) | {"rate": f.rate, "share": f.share} for f in self.figures],
            "loads": [dataclasses.asdict(load) for load in self.loads],
            "record": dataclasses.asdict(self.record),
        }
        (folder / "results.json").write_text(json.dumps(facts, indent=1))
        (folder / "results.md").write_text(self.markdown())
        with (folder / "results.csv").open("w", newline="") as file:
            self._write_csv(csv.writer(file))

    def _write_csv(self, writer: csv.Writer) -> None:
        ratios = [f"ratio to {peer}" for peer in self.peers()]
        writer.writerow(
            ["figure", "contestant", self.unit, "share of limit", "GB/s probed", "int8 TOPS probed", *ratios]
        )
        for f in self.figures:
            others = [self.find(f.name, peer) for peer in self.peers()]
            cells = [f.ratio_to(other) if other else None for other in others]
            probes = (median(f.bandwidths.values()) / 1e9, median(f.peaks.values()) / 1e12)
            writer.writerow([f.name, f.contestant, *map(_number, (f.rate, f.share, *probes, *cells))])
        for load in self.loads:
            for what, value in (("load first s", load.first), ("load again s", load.again)):
                writer.writerow([what, load.contestant, _number(value)])
            writer.writerow(["peak MB", load.contestant, _number(load.peak_bytes / 1e6)])

    def _names(self) -> list[str]:
        return [c.name for c in self.contestants]

    def _figure_names(self) -> list[str]:
        return list(dict.fromkeys(f.name for f in self.figures))


_LOAD_ROWS = {
    "load, first, s": lambda load: f"{load.first:.2f}" if load else "",
    "load, again, s": lambda load: f"{load.again:.2f}" if load and load.again is not None else "",
    "peak MB": lambda load: f"{load.peak_bytes / 1e6:.0f}" if load else "",
}


def _transposed(table: Table) -> Table:
    columns, rows = table
    turned = [(name, *(row[i] for row in rows)) for i, name in enumerate(columns[1:], start=1)]
    return [columns[0], *(row[0] for row in rows)], turned


def _rate_cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    share = "" if figure.share is None else f" ({figure.share:.0%})"
    return f"{figure.rate:.0f}{share}" if figure.rate >= 100 else f"{figure.rate:.1f}{share}"


def _ratio_cell(ours: Figure | None, theirs: Figure | None) -> str:
    ratio = ours.ratio_to(theirs) if ours and theirs else None
    return "" if ratio is None else f"{ratio:.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
