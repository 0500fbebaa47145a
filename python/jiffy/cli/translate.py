"""`jiffy translate`: texts in another language."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from .texts import FileOption, JsonLinesOption, TextsArgument, all_lines_of, beside, print_json


def translate(
    texts: TextsArgument = None,
    to: Annotated[str, typer.Option("--to", "-t", help='The language wanted, such as "pt" or "Portuguese".')] = "pt",
    source: Annotated[str, typer.Option("--from", "-s", help="The language of the texts.")] = "en",
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="A folder, a .bin or packed file, org/name on the hub, or a name of `jiffy models`."
        ),
    ] = None,
    beams: Annotated[int | None, typer.Option(help="Beams of the search; else as the model's files say.")] = None,
    file: FileOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Translate texts, or the lines of a file or of standard input; empty lines stay."""
    from .. import tasks

    noted: list[str] = []
    fields = {} if beams is None else {"n_beams": beams}
    given: Iterator[str] = beside(all_lines_of(texts, file), noted)
    for result in tasks.machine_translation(given, to, source, model, **fields):
        if as_json:
            print_json(noted.pop(0), result)
        else:
            print(result, flush=True)
    sys.stdout.flush()
