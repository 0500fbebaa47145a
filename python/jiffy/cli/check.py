"""`jiffy check`: does the engine compute what the model's file says?"""

from __future__ import annotations

import dataclasses
import json
import math
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
    load_with_layers,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from ..check import EncoderReport, Report


def check(
    model: ModelArgument = None,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text to read.", show_default="a built-in one")] = None,
    tokens: Annotated[int, typer.Option(help="Read this many tokens of it at most.", min=2)] = 256,
    against: Annotated[
        str | None, typer.Option(help="Another file or folder that holds the true weights.", show_default="the model")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Format of the vocabulary matrix.", show_default="weights")] = None,
    kv: KvOption = "auto",
    isa: Annotated[str | None, typer.Option(help="Instruction set.", show_default="the fastest")] = None,
    fuse: Annotated[bool, typer.Option(help="Fuse instructions.")] = True,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
    cache: CacheOption = True,
) -> None:
    """Compare the engine, part by part, with float64 on the weights of the model's file: a language model's, an
    encoder's (its head or embedding last), or both sides of an encoder-decoder.

    Exit status 1 and the name of the first bad part, if there is one.
    """
    from ..check import check as run_check
    from ..check import tokens_of

    loaded = load_with_layers(
        model, weights=weights, head=head, kv_dtype=kv, n_threads=threads, cache=cache, isa=isa, fuse=fuse
    )
    ids = tokens_of(loaded, _read(text), tokens)
    with progress() as show:
        report = run_check(loaded, ids, against, show)
    if as_json:
        bad = report.first_bad
        print(json.dumps(_without_nan(dataclasses.asdict(report)) | {"first_bad": bad and bad.name}, allow_nan=False))
    else:
        _print(report)
    if report.first_bad is not None:
        raise typer.Exit(1)


def _read(path: Path | None) -> str:
    from ..check_text import TEXT
    from ..errors import FormatError

    if path is None:
        return TEXT
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(str(path), expected="a text in UTF-8", found=str(error)) from None


def _without_nan(value: object) -> object:
    """JSON has no name for what an overflow leaves: null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _results(report: Report | EncoderReport) -> list[str]:
    from ..check import EncoderReport

    if isinstance(report, EncoderReport):
        changed = report.changed_top1
        lines = [f"cosine with the reference's result {report.cosine:.6f}"]
        return [*lines, *([] if changed is None else [f"largest score changed in {changed:.1%} of the rows"])]
    return [
        f"KL divergence {report.kl_mean:.2g} on average, {report.kl_max:.2g} at most",
        f"likeliest token changed at {report.changed_top1:.1%} of the positions",
        f"perplexity {report.perplexity:.3f}, in float64 {report.reference_perplexity:.3f}",
    ]


def _print(report: Report | EncoderReport) -> None:
    columns = ["part", "drift", "loss", "error", "worst", "of bound", ""]
    rows = []
    for p in report.parts:
        errors = (f"{x:.2e}" for x in (p.drift, p.loss, p.error, p.worst))
        rows.append((p.name, *errors, f"{p.bound_share:.0%}", "bad" if p.bad else "ok"))
    print_table(f"{report.n_tokens} tokens: loss of the formats, error of the engine", columns, rows)
    print("\n".join(_results(report)))
    bad = report.first_bad
    if bad is None:
        print("all parts are within the bounds of their formats")
        return
    print(f"the first bad part is {bad.name}")
    for f in bad.weight_faults:
        place = f"{f.name}, row {f.row}, columns {f.columns[0]} to {f.columns[1]}"
        print(f"{place}: off by {f.error:.3g}, its format by {f.bound:.3g} at most")
