"""`jiffy distill`: an encoder to static vectors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

EncoderArgument = Annotated[
    str | None,
    typer.Argument(
        help="A folder with safetensors, a packed file, org/name on the hub, or a name of `jiffy models`.",
        show_default="minilm-l6",
    ),
]


def distill(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, best named something.safetensors.")],
    encoder: EncoderArgument = None,
    dims: Annotated[int, typer.Option(help="Numbers of a vector.")] = 100,
    words: Annotated[
        Path | None, typer.Option(help="A file with a word a line, the most frequent first; else the encoder's tokens.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="A file with a text a line, to learn from: it makes much better vectors.")
    ] = None,
) -> None:
    """Distill static vectors from an encoder: a text's vector is then a mean of rows of a table.

    The file loads by itself: `jiffy embed --model FILE`.
    """
    from ..distill import distill as run_distill
    from ..static_files import read_words
    from ..tasks.models import encoder_of
    from .texts import texts_of

    given = None if words is None else read_words(words)
    lessons = None if texts is None else list(texts_of(None, texts))
    run_distill(encoder_of(encoder), out, dims=dims, words=given, texts=lessons)
    print(f"{out}: {os.path.getsize(out) / 1e6:,.1f} MB")
