"""`jiffy generate`: one prompt, one answer or several."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o

if TYPE_CHECKING:
    from ..completion import Completion
    from ..llm import Model
    from ..sampling import SamplingParams


def generate(
    prompt: Annotated[str, typer.Argument(help='The prompt, or "-" to read it from standard input.')],
    model: o.ModelOption = None,
    system: o.SystemOption = o.SYSTEM_MESSAGE,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the model's chat template.")
    ] = False,
    completions: Annotated[int, typer.Option("--completions", "-c", help="Answers, each by a seed of its own.")] = 1,
    logprobs: Annotated[
        int | None, typer.Option(help="Tell each token's log probability, and so many alternatives.")
    ] = None,
    as_json: o.JsonOption = False,
    weights: o.WeightsOption = None,
    kv: o.KvOption = "auto",
    threads: o.ThreadsOption = None,
    cache: o.CacheOption = True,
    context: o.ContextOption = None,
    max_tokens: o.MaxTokensOption = 256,
    temperature: o.TemperatureOption = 0.0,
    top_k: o.TopKOption = 0,
    top_p: o.TopPOption = 1.0,
    min_p: o.MinPOption = 0.0,
    repetition_penalty: o.RepetitionOption = 1.0,
    presence_penalty: o.PresenceOption = 0.0,
    frequency_penalty: o.FrequencyOption = 0.0,
    seed: o.SeedOption = 0,
) -> None:
    """Answer a prompt; the text streams to standard output."""
    from ..sampling import SamplingParams

    chosen = max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty
    params = SamplingParams(*chosen, seed, n=completions, logprobs=logprobs)
    text = sys.stdin.read() if prompt == "-" else prompt
    loaded = o.load_language_model(model, weights=weights, kv_dtype=kv, n_threads=threads, cache=cache, context=context)
    messages = None if raw or loaded.tokenizer.chat_template is None else _messages(text, system)
    if as_json or completions > 1:
        answers = loaded.generate(text, params=params) if messages is None else loaded.chat(messages, params=params)
        _print_all(answers, as_json)
    else:
        _print_one(loaded, text, messages, params)


def _messages(text: str, system: str) -> list[dict[str, str]]:
    given = [{"role": "system", "content": system}] if system else []
    return [*given, {"role": "user", "content": text}]


def _print_all(answers: Completion | list[Completion], as_json: bool) -> None:
    single = not isinstance(answers, list)
    if as_json:
        found = dataclasses.asdict(answers) if single else [dataclasses.asdict(answer) for answer in answers]
        print(json.dumps(found, ensure_ascii=False))
        return
    for i, answer in enumerate(answers, 1):
        print(f"[{i}] {answer.text}")
        _print_logprobs(answer)


def _print_one(model: Model, text: str, messages: list[dict[str, str]] | None, params: SamplingParams) -> None:
    asked = model.stream(text, params=params) if messages is None else model.chat_stream(messages, params=params)
    with asked as stream:
        for piece in stream:
            print(piece, end="", flush=True)
    print()
    _print_logprobs(stream.result())
    o.print_speed(stream.result())


def _print_logprobs(answer: Completion) -> None:
    if answer.logprobs is None:
        return
    rows = [
        (repr(t.text), f"{t.logprob:.3f}", "  ".join(f"{a.text!r} {a.logprob:.3f}" for a in t.top))
        for t in answer.logprobs
    ]
    o.print_table("", ["token", "log probability", "likeliest"], rows)
