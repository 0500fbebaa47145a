"""`jiffy pack`: a model in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .options import MODEL_HELP, ContextOption, ThreadsOption, WeightsOption


def pack(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    out: Annotated[Path, typer.Argument(help="The file to write, best named something.jiffy.")],
    weights: WeightsOption = None,
    head: Annotated[str | None, typer.Option(help="Format of the vocabulary matrix.", show_default="weights")] = None,
    context: ContextOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Pack a language model, an encoder or an encoder-decoder into one file that loads in no time and needs no other:
    weights, tokenizer, chat template, labels.

    --context matters only to models with "dynamic" rope scaling, which then load with this one alone, and to such with
    sinusoids, which then load with no longer one.
    """
    from ..llm import pack as run_pack

    run_pack(model, out, weights=weights, head=head, context=context, n_threads=threads)
    print(f"{out}: {os.path.getsize(out) / 1e6:,.1f} MB")
