"""`jiffy classify`: texts to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .texts import (
    EncoderOption,
    FileOption,
    JsonLinesOption,
    TextsArgument,
    TruncateOption,
    beside,
    overflow_of,
    print_json,
    texts_of,
)


def classify(
    texts: TextsArgument = None,
    file: FileOption = None,
    model: EncoderOption = None,
    labels: Annotated[
        str | None, typer.Option("--labels", "-l", help="Labels to choose from by their meaning, with commas between.")
    ] = None,
    head: Annotated[
        Path | None, typer.Option(help="A file that Classifier.save wrote, for the encoder it was trained with.")
    ] = None,
    truncate: TruncateOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Print the likeliest label of each text: of the model's head, of --labels, or of a trained --head."""
    from .. import tasks

    chosen = model if head is None else tasks.Classifier.load(head, model)
    names = None if labels is None else [name.strip() for name in labels.split(",")]
    noted: list[str] = []
    given = beside(texts_of(texts, file), noted)
    for found in tasks.text_classification(given, chosen, labels=names, overflow=overflow_of(truncate)):
        text = noted.pop(0)
        if as_json:
            print_json(text, found)
        else:
            print(f"{found.label}\t{found.score:.3f}\t{text}", flush=True)
