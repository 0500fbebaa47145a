"""The roofline of a model: operations per byte against operations a second, under the roofs that this machine has.

After Williams, Waterman, Patterson: "Roofline: an insightful visual performance model" (2009). A point is all
instructions of one kind in a step. Bytes are those of weights, keys and values, each read once; what is read again out
of a cache doesn't count, so a kind whose data fit into a cache may lie above the slope.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from ..errors import ParameterError
from .measuring import Result
from .plotting import pyplot

SUFFIXES = (".png", ".svg", ".pdf")
_UNITS = {"int8": "TOPS", "bf16": "TFLOPS", "f32": "TFLOPS"}
_COLOURS = {  # by the first word of a figure's name
    "prefill": ("#8cc3e8", "#3f8fc4", "#1f4e79"),
    "decode": ("#f0a3a3", "#d1495b", "#7a1f1f"),
    "batch": ("#8ac6a0", "#2e7d4f", "#174d2e"),
    **dict.fromkeys(("alone", "greedy"), ("#8cc3e8", "#3f8fc4", "#1f4e79")),
    **dict.fromkeys(("ragged", "beams"), ("#f0a3a3", "#d1495b", "#7a1f1f")),
}
_MARKERS = "osD^vPX*<>"
_INK = "#333333"


@dataclass(frozen=True)
class Point:
    """All instructions of one kind in a step of one figure. rate: operations/s."""

    figure: str
    op: str
    intensity: float
    rate: float
    step_share: float


def check_plot(path: Path) -> None:
    """Before anything is measured. Raises ParameterError for a file of another type or a folder that isn't there,
    Unsupported without matplotlib."""
    pyplot()
    if path.suffix not in SUFFIXES:
        raise ParameterError("plot", expected=f"a file that ends in {', '.join(SUFFIXES)}", found=str(path))
    if not path.absolute().parent.is_dir():
        raise ParameterError("plot", expected="a file in a folder that exists", found=str(path))


def points(result: Result) -> Iterator[Point]:
    """Of what both reads and computes; for the rest the picture has no place."""
    for figure in result.figures:
        for t in figure.ops:
            if t.bytes and t.operations:
                rate = t.operations / t.seconds
                yield Point(figure.name, t.op, t.operations / t.bytes, rate, t.step_share)


def draw_roofline(result: Result, path: Path, title: str) -> None:
    """Raises Unsupported without matplotlib, ParameterError if there is nothing to draw."""
    shown = list(points(result))
    if not shown:
        raise ParameterError("plot", expected="at least one prompt, context or batch to measure", found="none")
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(10.5, 6), layout="constrained")
    top = max(result.peaks.values())
    reach = [*(p.intensity for p in shown), top / result.bandwidth]
    left, right = min(reach) / 2.5, max(reach) * 6  # room for the names of the lines
    _draw_roofs(axis, result, left, right)
    colours, markers = _draw_points(axis, shown)
    _draw_legends(axis, colours, markers)
    bottom = min([*(p.rate for p in shown), left * result.bandwidth * 2]) / 2.5
    axis.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, max(top, *(p.rate for p in shown)) * 2))
    axis.set_xlabel("operations per byte of weights, keys and values")
    axis.set_ylabel("operations per second")
    axis.yaxis.set_major_locator(plt.matplotlib.ticker.LogLocator(subs=(1, 2, 5), numticks=40))
    axis.yaxis.set_major_formatter(_si)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_title(title, loc="left", fontsize=11, color=_INK)
    axis.grid(which="major", color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_roofs(axis: Any, result: Result, left: float, right: float) -> None:
    """The slope of the memory up to the highest peak; each peak from the slope on."""
    top = max(result.peaks.values())
    ridge = top / result.bandwidth
    axis.plot([left, ridge], [left * result.bandwidth, top], color=_INK, linewidth=2)
    middle = math.sqrt(left * ridge)
    axis.annotate(
        f"read {result.bandwidth / 1e9:.0f} GB/s",
        (middle, middle * result.bandwidth),
        xytext=(-6, 4),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=_INK,
    )
    for kind, peak in result.peaks.items():
        if not peak:
            continue
        axis.plot([peak / result.bandwidth, right], [peak, peak], color=_INK, linewidth=2 if peak == top else 1)
        label = f"{kind} {peak / 1e12:.2f} {_UNITS[kind]}"
        place = {"xytext": (-2, 3), "textcoords": "offset points", "ha": "right", "fontsize": 9, "color": _INK}
        axis.annotate(label, (right, peak), **place)


def _draw_points(axis: Any, shown: list[Point]) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the colours by figure and the markers by op."""
    shades = {first: cycle(palette) for first, palette in _COLOURS.items()}
    colours = {name: next(shades[name.split()[0]]) for name in dict.fromkeys(p.figure for p in shown)}
    markers = dict(zip(dict.fromkeys(p.op for p in shown), cycle(_MARKERS), strict=False))
    for p in sorted(shown, key=lambda p: -p.step_share):  # small ones on top
        axis.scatter(
            p.intensity,
            p.rate,
            s=30 + 330 * p.step_share,
            color=colours[p.figure],
            marker=markers[p.op],
            edgecolor="white",
            linewidth=0.8,
            zorder=3,
        )
    return colours, markers


def _draw_legends(axis: Any, colours: dict[str, str], markers: dict[str, str]) -> None:
    look = {"linestyle": "", "markersize": 8, "markeredgecolor": "white"}
    steps = [axis.plot([], [], marker="o", color=colour, label=name, **look)[0] for name, colour in colours.items()]
    kinds = [axis.plot([], [], marker=marker, color="#777777", label=op, **look)[0] for op, marker in markers.items()]
    place = {"loc": "upper left", "frameon": False, "fontsize": 9, "title_fontsize": 9, "alignment": "left"}
    axis.add_artist(axis.legend(handles=steps, title="step", bbox_to_anchor=(1.01, 1.0), **place))
    beside = {"bbox_to_anchor": (1.01, 0.97 - 0.04 * (len(steps) + 1)), **place}
    axis.legend(handles=kinds, title="instruction\n(area: share of the step)", **beside)


def _si(value: float, _: int) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
