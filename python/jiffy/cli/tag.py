"""`jiffy tag`: what stands in texts."""

from __future__ import annotations

from typing import Annotated

import typer

from .texts import (
    FileOption,
    HeadOption,
    JsonLinesOption,
    TextsArgument,
    TruncateOption,
    beside,
    overflow_of,
    print_json,
    texts_of,
)


def tag(
    model: HeadOption,
    texts: TextsArgument = None,
    file: FileOption = None,
    every: Annotated[bool, typer.Option("--every", help="Every token with its label, nothing joined.")] = False,
    truncate: TruncateOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Print the labelled parts of each text."""
    from .. import tasks

    noted: list[str] = []
    given = beside(texts_of(texts, file), noted)
    for found in tasks.token_classification(given, model, join=not every, overflow=overflow_of(truncate)):
        text = noted.pop(0)
        if as_json:
            print_json(text, found)
            continue
        print(text)
        for entity in found:
            print(f"  {entity.label}\t{entity.score:.3f}\t{entity.text}", flush=True)
