"""The command line: one module a command, which imports what it needs when it is called."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import Error
from .answer import answer
from .bench_kernels import kernels
from .bench_limits import limits
from .bench_model import model
from .cache import cache
from .chat import chat
from .check import check
from .classify import classify
from .distill import distill
from .embed import embed
from .generate import generate
from .info import info
from .models import models
from .pack import pack
from .rerank import rerank
from .summarize import summarize
from .tag import tag
from .translate import translate

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Language models in a jiffy, on the CPU that you have."
)
tasks = embed, classify, tag, answer, rerank, translate, summarize
for command in (generate, chat, *tasks, info, models, check, pack, distill, cache):
    app.command()(command)

bench = typer.Typer(no_args_is_help=True, help="Measure this machine.")
for command in (limits, kernels, model):
    bench.command()(command)
app.add_typer(bench, name="bench")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"jiffy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command line; a jiffy.Error becomes one line on standard error and exit status 1."""
    if sys.stdin is not None:
        sys.stdin.reconfigure(errors="surrogateescape")  # for the tokenizer to refuse, which names the place
    try:
        app()
    except Error as error:
        print(f"jiffy: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone: nobody is left to tell
        sys.exit(141)
