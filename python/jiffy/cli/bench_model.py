"""`jiffy bench model`: how fast a model runs here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ParameterError
from .options import (
    CacheOption,
    JsonOption,
    KvOption,
    ModelArgument,
    ThreadsOption,
    WeightsOption,
    load_with_layers,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from ..bench.measuring import Figure, Result
    from ..bench.model import AnyPlan
    from ..families import Family

Counts = list[int] | None


def model(
    model: ModelArgument = None,
    prefill: Annotated[Counts, typer.Option(help="Prompt lengths.", min=1, show_default="128 512 2048")] = None,
    decode: Annotated[Counts, typer.Option(help="Contexts, alone.", min=0, show_default="0 512 2048")] = None,
    batch: Annotated[
        Counts, typer.Option(help="Sequences or texts at once.", min=1, show_default="8 32; encoders 1 32; others 1 16")
    ] = None,
    length: Annotated[
        Counts, typer.Option(help="Tokens of a text, for an encoder.", min=1, show_default="32 128")
    ] = None,
    beams: Annotated[
        Counts, typer.Option(help="Beams of an encoder-decoder; 1 is greedy.", min=1, show_default="1 4")
    ] = None,
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
    """How fast a model runs, as shares of what this machine can do, and where the time goes.

    A language model's prefill, decode and batches; an encoder's texts per second, alone, in batches and in one of all
    lengths; an encoder-decoder's answers, greedy and by beam search. Lists of counts repeat the option:
    --prefill 128 --prefill 512.
    """
    from ..bench.model import bench_model
    from ..hub import resolve_model
    from ..prepare import family_of

    if plot:
        from ..bench.roofline import check_plot, draw_roofline

        check_plot(plot)
    asked = {"prefill": prefill, "decode": decode, "batch": batch, "length": length, "beams": beams}
    path = resolve_model(model)
    plan = _plan(family_of(path), {name: counts for name, counts in asked.items() if counts}, quick)
    sequences = max(64, plan.places())
    loaded = load_with_layers(path, weights=weights, kv_dtype=kv, n_threads=threads, cache=cache, max_batch=sequences)
    with progress() as show:
        result = bench_model(loaded, plan, show)
    if plot:
        draw_roofline(result, plot, _title(path, loaded.info()))
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        _print(result)


def _plan(family: Family, given: dict[str, list[int]], quick: bool) -> AnyPlan:
    """Raises ParameterError for an option that is another family's."""
    from ..bench.model import EncoderPlan, Plan, Seq2SeqPlan
    from ..families import ENCODER_DECODERS, ENCODERS, LANGUAGE_MODEL

    plan = {LANGUAGE_MODEL: Plan, ENCODERS: EncoderPlan, ENCODER_DECODERS: Seq2SeqPlan}[family]
    known = [field.name for field in dataclasses.fields(plan)]
    for name in given:
        if name not in known:
            raise ParameterError(name, expected=f"no such option for {family.title}", found="one")
    return plan.quick(**given) if quick else plan(**given)


def _title(path: Path, info: dict[str, object]) -> str:
    from .. import _core

    name = path.name.removesuffix(".gguf")
    return f"{name} on {_core.cpu_info().name}, {info['threads']} threads, {info['isa']}, {info['kv_dtype']} KV"


def _print(result: Result) -> None:
    peaks = ", ".join(f"{kind} {rate / 1e12:.2f}" for kind, rate in result.peaks.items() if rate)
    print(f"limits: {result.bandwidth / 1e9:.1f} GB/s read; 10^12 operations/s: {peaks}")
    texts = any(f.texts_per_second for f in result.figures)
    rows = [
        (
            f.name,
            *([f"{f.texts_per_second:.1f}"] if texts else []),
            f"{f.tokens_per_second:.1f}",
            f"{f.seconds * 1e3:.2f}",
            f"{f.limit_share:.0%}",
        )
        for f in result.figures
    ]
    print_table("", ["", *(["texts/s"] if texts else []), "tokens/s", "ms", "of the limit"], rows)
    kinds: dict[str, list[Figure]] = {}
    for figure in result.figures:
        kinds.setdefault(figure.name.split()[0], []).append(figure)
    for figures in kinds.values():
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
