"""The picture of a comparison: a panel for each figure, a bar for each contestant."""

from __future__ import annotations

from pathlib import Path

from jiffy.bench.plotting import pyplot

from .report import Report

_OURS = ("#c2410c", "#ea7a3b", "#f4b183", "#f8d5bd")
_PEERS = ("#1e4e79", "#4682b4", "#7fa8c9", "#b7cde0", "#8a8a8a")
_COLUMNS = 4


def draw(report: Report, path: Path) -> None:
    """Raises Unsupported without matplotlib."""
    names = list(dict.fromkeys(f.name for f in report.figures))
    rows = -(-len(names) // _COLUMNS)
    plt = pyplot()
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(13, 0.7 + 2.9 * rows), squeeze=False, layout="constrained")
    colours = _colours(report)
    for axis, name in zip(axes.flat, names, strict=False):
        _panel(axis, report, name, colours)
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(handles, colours, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{report.head['model']}: {report.unit}, and the share of the limit, on {report.head['machine']}")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _colours(report: Report) -> dict[str, str]:
    ours, peers = iter(_OURS * 9), iter(_PEERS * 9)
    return {c.name: next(ours if c.is_jiffy else peers) for c in report.contestants}


def _panel(axis, report: Report, name: str, colours: dict[str, str]) -> None:
    figures = [f for f in report.figures if f.name == name]
    bars = axis.bar(range(len(figures)), [f.rate for f in figures], color=[colours[f.contestant] for f in figures])
    labels = [f"{f.rate:.0f}" + (f"\n{f.share:.0%}" if f.share is not None else "") for f in figures]
    axis.bar_label(bars, labels, fontsize=8, padding=2)
    axis.set_title(name, fontsize=10)
    axis.margins(y=0.22)
    axis.set_xticks([])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
