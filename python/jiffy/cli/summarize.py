"""`jiffy summarize`: a text in fewer words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .texts import JsonLinesOption, TruncateOption, overflow_of, print_json, text_of


def summarize(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A folder, packed file or org/name on the hub, trained for this.")
    ],
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The text; else standard input.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Tokens of the summary; else as the model's files say.")
    ] = None,
    truncate: TruncateOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Print a summary of a text, from a file or standard input."""
    from .. import tasks

    text = sys.stdin.read() if file is None else text_of(file)
    fields = {} if max_tokens is None else {"max_tokens": max_tokens}
    found = tasks.summarization(text, model, overflow=overflow_of(truncate), **fields)
    if as_json:
        print_json(text, found)
    else:
        print(found)
