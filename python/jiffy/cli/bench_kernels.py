"""`jiffy bench kernels`: every kernel as a share of what this machine can do."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from .options import JsonOption, ThreadsOption, print_table, progress

if TYPE_CHECKING:
    from ..bench.kernels import Figure, Selection


def kernels(
    kernel: Annotated[
        list[str] | None, typer.Option(help="Time this one; may be repeated.", show_default="all")
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(help="Of weights, or of keys and values; may be repeated.", show_default="the usual ones"),
    ] = None,
    isa: Annotated[list[str] | None, typer.Option(help="May be repeated.", show_default="the fastest")] = None,
    rows: Annotated[
        list[int] | None, typer.Option(help="Tokens at once; may be repeated.", show_default="1, 64")
    ] = None,
    threads: ThreadsOption = None,
    megabytes: Annotated[int, typer.Option(help="Of distinct weights, KV caches and probe memory.", min=1)] = 256,
    as_json: JsonOption = False,
) -> None:
    """Check and time the kernels over a thread pool, beside the read bandwidth and arithmetic peak of that moment.

    Shares above 100 % of the bandwidth come from cache. `jiffy bench limits` has the limits alone.
    """
    from ..bench.kernels import Selection

    selection = Selection(kernel or [], format or [], isa or [], rows or [1, 64], threads, megabytes << 20)
    figures = _measure(selection)
    if as_json:
        shares = ("bandwidth_share", "peak_share")
        print(json.dumps([dataclasses.asdict(f) | {name: getattr(f, name) for name in shares} for f in figures]))
        return
    isas = sorted({figure.isa for figure in figures})
    titles = ["kernel", "format", *["isa"] * (len(isas) > 1), "rows", "us", "GB/s", "GOP/s"]
    print_table(f"{', '.join(isas)}; shares of the limits", titles, [_cells(f, len(isas) > 1) for f in figures])


def _measure(selection: Selection) -> list[Figure]:
    from ..bench.kernels import measure

    figures: list[Figure] = []
    with progress() as show:
        for figure in measure(selection):
            figures.append(figure)
            show(f"{len(figures)} of {len(selection)} figures")
    return figures


def _cells(f: Figure, with_isa: bool) -> tuple[str, ...]:
    read = f"{f.n_bytes / f.seconds / 1e9:.1f} = {f.bandwidth_share:.0%}"
    computed = "" if f.peak_share is None else f"{f.operations / f.seconds / 1e9:.0f} = {f.peak_share:.0%}"
    return (f.kernel, f.format, *[f.isa] * with_isa, str(f.rows), f"{f.seconds * 1e6:.1f}", read, computed)
