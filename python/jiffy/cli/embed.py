"""`jiffy embed`: texts to vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FormatError
from .texts import EncoderOption, FileOption, TextsArgument, TruncateOption, beside, overflow_of, texts_of


def embed(
    texts: TextsArgument = None,
    file: FileOption = None,
    model: EncoderOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .npy file, float32 [texts, dim].")] = None,
    truncate: TruncateOption = False,
) -> None:
    """Print the embedding of each text as a line of JSON, or write all to a .npy file."""
    from .. import tasks

    noted: list[str] = []
    given = beside(texts_of(texts, file), noted)
    if out is not None:
        found = tasks.embed(list(given), model, overflow=overflow_of(truncate))
        _write(out, found)
        return
    for embedding in tasks.embed(given, model, overflow=overflow_of(truncate)):
        print(json.dumps({"text": noted.pop(0), "embedding": [round(float(x), 7) for x in embedding]}), flush=True)


def _write(out: Path, array) -> None:
    import numpy as np

    try:
        with open(out, "wb") as file:
            np.save(file, array)
    except OSError as error:
        raise FormatError(str(out), expected="a file that can be written", found=error.strerror or str(error)) from None
