"""`jiffy bench model`: how fast a model runs here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    CacheOption,
    JsonOption,
    KvOption,
    ModelArgument,
    ThreadsOption,
    WeightsOption,
    load_language_model,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from ..bench.model import Figure, Result
    from ..llm import Model

Counts = list[int] | None


def model(
    model: ModelArgument = None,
    prefill: Annotated[Counts, typer.Option(help="Prompt lengths.", min=1, show_default="128 512 2048")] = None,
    decode: Annotated[Counts, typer.Option(help="Contexts, alone.", min=0, show_default="0 512 2048")] = None,
    batch: Annotated[Counts, typer.Option(help="Sequences at once.", min=1, show_default="8 32")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter runs.")] = False,
    kv: KvOption = "auto",
    plot: Annotated[
        Path | None, typer.Option(help="Draw the roofline into this file (.png, .svg, .pdf).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
    cache: CacheOption = True,
) -> None:
    """Prefill, decode and batches, as shares of what this machine can do, and where the time goes.

    Lists of counts repeat the option: --prefill 128 --prefill 512.
    """
    from ..bench.model import Plan, bench_model

    if plot:
        from ..bench.roofline import check_plot, draw_roofline

        check_plot(plot)
    asked = {"prefill": prefill, "decode": decode, "batch": batch}
    given = {name: counts for name, counts in asked.items() if counts}
    plan = Plan.quick(**given) if quick else Plan(**given)
    sequences = max(64, *plan.batch)
    loaded = load_language_model(
        model, weights=weights, kv_dtype=kv, n_threads=threads, cache=cache, max_batch=sequences
    )
    with progress() as show:
        result = bench_model(loaded, plan, show)
    if plot:
        draw_roofline(result, plot, _title(loaded))
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        _print(result)


def _title(model: Model) -> str:
    from .. import _core

    info = model.info()
    name = model.path.name.removesuffix(".gguf")
    return f"{name} on {_core.cpu_info().name}, {info['threads']} threads, {info['isa']}, {info['kv_dtype']} KV"


def _print(result: Result) -> None:
    peaks = ", ".join(f"{kind} {rate / 1e12:.2f}" for kind, rate in result.peaks.items() if rate)
    print(f"limits: {result.bandwidth / 1e9:.1f} GB/s read; 10^12 operations/s: {peaks}")
    rows = [
        (f.name, f"{f.tokens_per_second:.1f}", f"{f.seconds * 1e3:.2f}", f"{f.limit_share:.0%}") for f in result.figures
    ]
    print_table("", ["", "tokens/s", "ms", "of the limit"], rows)
    for kind in ("prefill", "decode"):
        figures = [f for f in result.figures if f.name.startswith(kind)]
        if figures:
            _print_ops(figures[len(figures) // 2])


def _print_ops(figure: Figure) -> None:
    rows = []
    for t in figure.ops:
        share = "-" if t.limit_share is None else f"{t.limit_share:.0%}"
        sizes = (f"{t.bytes / 1e6:.2f}", f"{t.operations / 1e9:.3f}")
        rows.append((t.op, str(t.count), f"{t.seconds * 1e3:.3f}", f"{t.step_share:.1%}", *sizes, share))
    rows.append(
        ("outside", "", f"{figure.outside * 1e3:.3f}", f"{figure.outside / figure.profiled_seconds:.1%}", "", "", "")
    )
    columns = ["op", "count", "ms", "of the step", "MB", "10^9 operations", "of the limit"]
    print_table(figure.name, columns, rows)
