"""What several commands share: options that mean the same everywhere, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

MODEL_HELP = "A .gguf file, a folder with safetensors, or a known name."
ModelArgument = Annotated[str | None, typer.Argument(help=MODEL_HELP, show_default="smollm2-135m")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="smollm2-135m")]
WeightsOption = Annotated[str | None, typer.Option(help="Weight format, e.g. i4 or i8.", show_default="as in the file")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads.", show_default="physical cores")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

# Not left to the template: SmolLM2's own message puts "The" and "L'" within 0.1 of each other as the first token about
# France's capital, in f32, and 8-bit activations turn it over.
SYSTEM_MESSAGE = "You are a helpful assistant."
SystemOption = Annotated[str, typer.Option(help='System message; "" leaves it to the model\'s template.')]


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yields a function that shows, on a terminal, what is being done."""
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def print_table(title: str, columns: list[str], rows: list[tuple[str, ...]]) -> None:
    """A table on standard output; without columns' names, no header."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, show_header=bool(columns))
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
