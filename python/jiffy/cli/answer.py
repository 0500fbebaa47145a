"""`jiffy answer`: the part of a text that answers a question."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .texts import HeadOption, JsonLinesOption, print_json, text_of


def answer(
    question: Annotated[str, typer.Argument(help="The question.")],
    model: HeadOption,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="The text; else standard input.")] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Print the part of a text, from a file or standard input, that answers a question."""
    from .. import tasks

    found = tasks.question_answering(question, sys.stdin.read() if file is None else text_of(file), model)
    if as_json:
        print_json(question, found)
    else:
        print(found.text)
