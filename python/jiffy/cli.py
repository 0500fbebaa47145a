"""The command line: `jiffy generate`, `jiffy info`, `jiffy bench limits`."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from . import __version__
from .errors import Error

if TYPE_CHECKING:
    from .llm import Model

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Language models in a jiffy, on the CPU that you have."
)
bench = typer.Typer(no_args_is_help=True, help="Measure this machine.")
app.add_typer(bench, name="bench")

# Not left to the template: SmolLM2's own message puts "The" and "L'" within 0.1 of each other as the first token about
# France's capital, in f32, and 8-bit activations turn it over.
SYSTEM_MESSAGE = "You are a helpful assistant."

MODEL_HELP = "A .gguf file, a folder with safetensors, or a known name."
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="smollm2-135m")]
WeightsOption = Annotated[str | None, typer.Option(help="Weight format, e.g. i4 or i8.", show_default="as in the file")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads.", show_default="physical cores")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help='The prompt, or "-" to read it from standard input.')],
    model: ModelOption = None,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the most likely token.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="At most this many new tokens.")] = 256,
    top_k: Annotated[int, typer.Option(help="Sample among the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the most likely tokens of this total probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Leave out tokens below this share of the most likely one.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal texts.")] = 0,
    system: Annotated[
        str, typer.Option(help='System message; "" leaves it to the model\'s template.')
    ] = SYSTEM_MESSAGE,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the model's chat template.")
    ] = False,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Answer a prompt; the text streams to standard output."""
    from .llm import load
    from .sampling import SamplingParams

    params = SamplingParams(max_tokens, temperature, top_k, top_p, min_p, seed)
    text = sys.stdin.read() if prompt == "-" else prompt
    loaded = load(model, weights=weights, n_threads=threads)
    ids = _encode(loaded, text, None if raw else system)
    with loaded.stream(token_ids=ids, params=params) as stream:
        for piece in stream:
            if not as_json:
                print(piece, end="", flush=True)
        completion = stream.result()
    if as_json:
        print(json.dumps(dataclasses.asdict(completion), ensure_ascii=False))
        return
    print()
    if sys.stderr.isatty():
        t = completion.timings
        speed = f"{t.tokens_per_second:.0f} tokens/s" if t.tokens_per_second else "one token"
        print(f"[{completion.n_tokens} tokens, first after {t.ttft * 1e3:.0f} ms, {speed}]", file=sys.stderr)


def _encode(model: Model, text: str, system: str | None) -> list[int]:
    """Through the model's chat template, if it has one; as it is without a system message (None, not "")."""
    if system is None or model.tokenizer.chat_template is None:
        return model.tokenizer.encode(text)
    from .chat import encode_chat

    messages = [{"role": "system", "content": system}] if system else []
    return encode_chat(model.tokenizer, [*messages, {"role": "user", "content": text}])


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP, show_default="smollm2-135m")] = None,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Load a model and say what it is and how it would run."""
    from .llm import load

    facts = load(model, weights=weights, n_threads=threads).info()
    if as_json:
        print(json.dumps(facts))
        return
    facts["formats"] = ", ".join(f"{name}: {count / 1e6:.1f} M" for name, count in facts["formats"].items())
    for name in ("packed_bytes", "kv_bytes"):
        facts[name] = f"{facts[name] / 1e6:.1f} MB"
    _table("", [], [(name.replace("_", " "), str(value)) for name, value in facts.items()])


@bench.command()
def limits(
    threads: Annotated[
        int | None, typer.Option(help="Measure this many threads only.", show_default="1 to all cores")
    ] = None,
    megabytes: Annotated[int, typer.Option(help="Memory to read in each pass.", min=1)] = 1024,
    isa: Annotated[str, typer.Option(help="Instruction set.")] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Read bandwidth (best of three access patterns, median of 5) and arithmetic peaks, by number of threads."""
    from . import _core
    from .bench.limits import PATTERNS, measure_limits

    counts = [threads] if threads is not None else range(1, _core.cpu_info().default_threads + 1)
    rows = [measure_limits(n, megabytes << 20, isa) for n in counts]
    if as_json:
        print(json.dumps([dataclasses.asdict(r) | {"best_bandwidth": r.best_bandwidth} for r in rows]))
        return
    titles = [
        "threads",
        "read GB/s",
        *(f"{s} stream{'s' * (s > 1)}" for s in PATTERNS),
        "int8 TOPS",
        "bf16 TFLOPS",
        "f32 TFLOPS",
    ]
    cells = []
    for r in rows:
        rates = [f"{v / 1e9:.1f}" for v in (r.best_bandwidth, *r.bandwidth.values())]
        peaks = [f"{v / 1e12:.3f}" if v else "-" for v in (r.int8, r.bf16, r.f32)]
        cells.append((str(r.n_threads), *rates, *peaks))
    _table(_core.cpu_info().name, titles, cells)


def _table(title: str, columns: list[str], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, show_header=bool(columns))
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


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
