"""`jiffy generate`: one prompt, one answer."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .options import SYSTEM_MESSAGE, JsonOption, ModelOption, SystemOption, ThreadsOption, WeightsOption

if TYPE_CHECKING:
    from ..llm import Model


def generate(
    prompt: Annotated[str, typer.Argument(help='The prompt, or "-" to read it from standard input.')],
    model: ModelOption = None,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the most likely token.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="At most this many new tokens.")] = 256,
    top_k: Annotated[int, typer.Option(help="Sample among the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the most likely tokens of this total probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Leave out tokens below this share of the most likely one.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal texts.")] = 0,
    system: SystemOption = SYSTEM_MESSAGE,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the model's chat template.")
    ] = False,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Answer a prompt; the text streams to standard output."""
    from ..llm import load
    from ..sampling import SamplingParams

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
    from ..chat import encode_chat

    messages = [{"role": "system", "content": system}] if system else []
    return encode_chat(model.tokenizer, [*messages, {"role": "user", "content": text}])
