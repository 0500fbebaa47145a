"""`jiffy rerank`: texts in the order of what they have to do with a query."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from .texts import EncoderOption, FileOption, JsonLinesOption, TextsArgument, TruncateOption, overflow_of, texts_of


def rerank(
    query: Annotated[str, typer.Argument(help="What is looked for.")],
    texts: TextsArgument = None,
    file: FileOption = None,
    model: EncoderOption = None,
    top: Annotated[int | None, typer.Option("--top", "-n", help="So many of the best.", show_default="all")] = None,
    truncate: TruncateOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Print the texts, the one that fits best first: by a cross-encoder, or by embeddings."""
    from .. import tasks

    found = tasks.rerank(query, list(texts_of(texts, file)), model, top=top, overflow=overflow_of(truncate))
    for one in found:
        if as_json:
            print(json.dumps(dataclasses.asdict(one), ensure_ascii=False))
        else:
            print(f"{one.score:.3f}\t{one.text}")
