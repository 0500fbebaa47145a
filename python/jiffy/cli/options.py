"""What several commands share: options that mean the same everywhere, tables, and how fast an answer came."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Unsupported

if TYPE_CHECKING:
    from ..completion import Completion
    from ..llm import Model

MODEL_HELP = "A .gguf file, a folder with safetensors, a packed file, org/name on the hub, or a name of `jiffy models`."
ModelArgument = Annotated[str | None, typer.Argument(help=MODEL_HELP, show_default="smollm2-135m")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="smollm2-135m")]
WeightsOption = Annotated[str | None, typer.Option(help="Weight format, e.g. i4 or i8.", show_default="as in the file")]
KvOption = Annotated[
    str,
    typer.Option(
        "--kv", help="Keys and values in the cache: f32, bf16, int8; auto: f32 beside f32 weights, else bf16."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads.", show_default="physical cores")]
ContextOption = Annotated[
    int | None, typer.Option(help="Positions of the context.", show_default="the model's, up to 8192")
]
CacheOption = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep packed weights for the next load; see `jiffy cache`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

# Not left to the template: SmolLM2's own message puts "The" and "L'" within 0.1 of each other as the first token about
# France's capital, in f32, and 8-bit activations turn it over.
SYSTEM_MESSAGE = "You are a helpful assistant."
SystemOption = Annotated[str, typer.Option(help='System message; "" leaves it to the model\'s template.')]


def load_with_layers(name: str | os.PathLike[str] | None, **options):
    """`jiffy.load`. Raises Unsupported for static vectors, too."""
    from ..llm import load
    from ..static_vectors import StaticVectors

    loaded = load(name, **options)
    if isinstance(loaded, StaticVectors):
        raise Unsupported(str(loaded.path), expected="a model with layers", found="static vectors")
    return loaded


def load_language_model(name: str | None, **options) -> Model:
    """`jiffy.load`. Raises Unsupported for a model of another kind, too."""
    from ..llm import Model, load

    loaded = load(name, **options)
    if not isinstance(loaded, Model):
        raise Unsupported(str(loaded.path), expected="a language model", found=type(loaded).__name__)
    return loaded


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yields a function that shows, on a terminal, what is being done."""
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update


def _sampling(*names: str, help: str) -> object:
    return typer.Option(*names, help=help, rich_help_panel="Sampling")


TemperatureOption = Annotated[float, _sampling("--temperature", "-t", help="0 takes the most likely token.")]
MaxTokensOption = Annotated[int, _sampling("--max-tokens", "-n", help="At most this many new tokens.")]
TopKOption = Annotated[int, _sampling(help="Sample among the k most likely tokens; 0: all.")]
TopPOption = Annotated[float, _sampling(help="Sample among the most likely tokens of this total probability.")]
MinPOption = Annotated[float, _sampling(help="Leave out tokens below this share of the most likely one.")]
RepetitionOption = Annotated[float, _sampling(help="Divides the logits of tokens that were there before; 1: off.")]
PresenceOption = Annotated[float, _sampling(help="Taken off the logits of tokens in the answer so far.")]
FrequencyOption = Annotated[float, _sampling(help="The same, for each time that they are there.")]
SeedOption = Annotated[int, _sampling(help="Equal seeds give equal texts.")]


def print_table(title: str, columns: list[str], rows: list[tuple[str, ...]]) -> None:
    """A table on standard output; without columns' names, no header."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, show_header=bool(columns))
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def print_speed(completion: Completion, *notes: str) -> None:
    """One line for a person who watches: on standard error, if that is a terminal."""
    if sys.stderr.isatty():
        t = completion.timings
        speed = f"{t.tokens_per_second:.0f} tokens/s" if t.tokens_per_second else "one token"
        facts = [f"{completion.n_tokens} tokens", f"first after {t.ttft * 1e3:.0f} ms", speed, *notes]
        print(f"[{', '.join(facts)}]", file=sys.stderr)
