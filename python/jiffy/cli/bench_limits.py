"""`jiffy bench limits`: what this machine can do at best."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from .options import JsonOption, print_table


def limits(
    threads: Annotated[
        int | None, typer.Option(help="Measure this many threads only.", show_default="1 to all cores")
    ] = None,
    megabytes: Annotated[int, typer.Option(help="Memory to read in each pass.", min=1)] = 1024,
    isa: Annotated[str, typer.Option(help="Instruction set.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Read bandwidth (best of three access patterns, median of 5) and arithmetic peaks, by number of threads."""
    from .. import _core
    from ..bench.limits import PATTERNS, measure_limits

    counts = [threads] if threads is not None else range(1, _core.cpu_info().default_threads + 1)
    rows = [measure_limits(n, megabytes << 20, isa) for n in counts]
    if as_json:
        print(json.dumps([dataclasses.asdict(r) | {"best_bandwidth": r.best_bandwidth} for r in rows]))
        return
    streams = [f"{s} stream{'s' * (s > 1)}" for s in PATTERNS]
    titles = ["threads", "read GB/s", *streams, "int8 TOPS", "bf16 TFLOPS", "f32 TFLOPS"]
    cells = []
    for r in rows:
        rates = [f"{v / 1e9:.1f}" for v in (r.best_bandwidth, *r.bandwidth.values())]
        peaks = [f"{v / 1e12:.3f}" if v else "-" for v in (r.int8, r.bf16, r.f32)]
        cells.append((str(r.n_threads), *rates, *peaks))
    print_table(_core.cpu_info().name, titles, cells)
