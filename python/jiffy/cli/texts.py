"""Where the commands of the tasks take their texts from, and how they hand results over."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ..errors import FormatError, ParameterError

TextsArgument = Annotated[
    list[str] | None, typer.Argument(help="Texts; without any, lines of --file or standard input.")
]
FileOption = Annotated[Path | None, typer.Option("--file", "-f", help="A file with a text a line.")]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A folder with safetensors, a packed file, org/name on the hub, or a name of `jiffy models`.",
        show_default="minilm-l6",
    ),
]
HeadOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A folder with safetensors, a packed file or org/name on the hub, with a head for it."
    ),
]
TruncateOption = Annotated[
    bool, typer.Option("--truncate", help="Leave out the end of texts that are longer than the context.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def texts_of(texts: list[str] | None, file: Path | None) -> Iterator[str]:
    """The arguments, or the lines of a file or of standard input that aren't empty. Raises FormatError for a file that
    can't be read or is no UTF-8."""
    if texts and file is not None:
        raise ParameterError("--file", expected="texts or a file", found="both")
    if texts:
        yield from texts
    elif file is None:
        yield from _lines(sys.stdin)
    else:
        with _opened(file) as lines:
            yield from _lines(lines)


def all_lines_of(texts: list[str] | None, file: Path | None) -> Iterator[str]:
    """The same, with the lines that are empty."""
    if texts:
        yield from texts_of(texts, file)
    elif file is None:
        yield from map(_stripped, sys.stdin)
    else:
        with _opened(file) as lines:
            yield from map(_stripped, lines)


def text_of(file: Path) -> str:
    """All that a file holds. Raises FormatError."""
    with _opened(file) as text:
        return text.read()


@contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    try:
        with open(file, encoding="utf-8") as opened:
            yield opened
    except OSError as error:
        raise FormatError(str(file), expected="a readable file", found=error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise FormatError(str(file), expected="UTF-8", found=f"another byte at {error.start}") from None


def _lines(file: TextIO) -> Iterator[str]:
    return (line for line in map(_stripped, file) if line)


def _stripped(line: str) -> str:
    return line.rstrip("\r\n")


def overflow_of(truncate: bool) -> str:
    return "truncate" if truncate else "error"


def print_json(text: str, result: object) -> None:
    """A line for a text and what was found in it."""
    print(json.dumps({"text": text, **_plain(result)}, ensure_ascii=False), flush=True)


def _plain(result: object) -> dict[str, object]:
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return dataclasses.asdict(result)
    return {"entities": [dataclasses.asdict(one) for one in result]} if isinstance(result, list) else {"result": result}


def beside(texts: Iterable[str], noted: list[str]) -> Iterator[str]:
    """The texts, each of which is put into `noted` when it is taken: results come in the same order, somewhat later."""
    for text in texts:
        noted.append(text)
        yield text
