"""`jiffy chat`: a conversation on the terminal, or one message a line through a pipe."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from ..errors import Error
from . import options as o

if TYPE_CHECKING:
    from ..chat import Message
    from ..llm import Model
    from ..sampling import SamplingParams

_HELP = """\
/help          this list
/reset         forget the conversation, keep the system message
/system TEXT   another system message; without TEXT, the one there is
/retry         answer the last message again, with another seed
/save FILE     write the conversation to a file, as JSON
/exit          end (so do Ctrl-D and Ctrl-C at an empty prompt; Ctrl-C during an answer stops the answer)
//TEXT         a message that begins with /"""


def chat(
    model: o.ModelOption = None,
    system: o.SystemOption = o.SYSTEM_MESSAGE,
    weights: o.WeightsOption = None,
    kv: o.KvOption = "auto",
    threads: o.ThreadsOption = None,
    cache: o.CacheOption = True,
    context: o.ContextOption = None,
    max_tokens: o.MaxTokensOption = 512,
    temperature: o.TemperatureOption = 0.2,
    top_k: o.TopKOption = 0,
    top_p: o.TopPOption = 1.0,
    min_p: o.MinPOption = 0.0,
    repetition_penalty: o.RepetitionOption = 1.0,
    presence_penalty: o.PresenceOption = 0.0,
    frequency_penalty: o.FrequencyOption = 0.0,
    seed: o.SeedOption = 0,
) -> None:
    """Talk with a model; /help lists what can be typed. A message a line, also through a pipe."""
    from ..chat import encode_chat
    from ..sampling import SamplingParams

    chosen = max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty
    params = SamplingParams(*chosen, seed)
    loaded = o.load_language_model(model, weights=weights, kv_dtype=kv, n_threads=threads, cache=cache, context=context)
    encode_chat(loaded.tokenizer, [{"role": "user", "content": "hello"}])  # fails now if no message could be answered
    conversation = _Conversation(loaded, params, system)
    if sys.stdin.isatty():
        _tell("/help lists what can be typed")
    while conversation.goes_on and (line := _read_line()) is not None:
        try:
            conversation.take(line.strip())
        except KeyboardInterrupt:
            print()
        except (Error, OSError) as error:
            print(f"jiffy: {error}", file=sys.stderr)


class _Conversation:
    """What has been said, and what comes of another line."""

    def __init__(self, model: Model, params: SamplingParams, system: str) -> None:
        self._model, self._params = model, params
        self._system = system
        self._said: list[Message] = []  # by user and model in turn
        self._n_dropped = 0  # of these, that no longer fit the context
        self._n_answers = 0
        self.goes_on = True

    def take(self, line: str) -> None:
        """A message or a command. Raises what the model raises, and OSError."""
        if not line:
            return
        if not line.startswith("/") or line.startswith("//"):
            self._answer(self._said, line.removeprefix("/") if line.startswith("//") else line)
            return
        name, _, argument = line[1:].partition(" ")
        command = getattr(self, f"_command_{name}", None) if name.isalpha() else None
        if command is None:
            _tell(f"no command /{name}; /help lists those there are")
        else:
            command(argument.strip())

    def _answer(self, said: list[Message], text: str) -> None:
        """Answers `text` after what was said; both are said then, an answer that Ctrl-C stops as far as it is."""
        said = [*said, {"role": "user", "content": text}]
        params = dataclasses.replace(self._params, seed=(self._params.seed + self._n_answers) % 2**64)
        n_cached = self._model.info()["cached_tokens"]
        stream = self._model.stream(token_ids=self._prompt(said), params=params)
        stopped = False
        try:
            with stream:
                for piece in stream:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            stopped = True
        answer = stream.result()
        self._said = [*said, {"role": "assistant", "content": answer.text}]
        self._n_answers += 1
        print()
        n_cached = self._model.info()["cached_tokens"] - n_cached
        notes = [f"prompt of {answer.n_prompt_tokens}, {n_cached} of them known"]
        notes += ["stopped"] * stopped + ["cut at --max-tokens"] * (answer.finish_reason == "length")
        o.print_speed(answer, *notes)

    def _prompt(self, said: list[Message]) -> list[int]:
        """Token ids of what fits the context. What doesn't is dropped until half of it is free, so that the answers to
        come find their beginning in the prefix cache and not, one turn shorter each time, nothing."""
        from ..chat import encode_chat
        from ..prompts import drop_turns

        context, tokenizer = self._model.info()["context"], self._model.tokenizer
        system = [{"role": "system", "content": self._system}] if self._system else []
        ids = encode_chat(tokenizer, system + said[self._n_dropped :])
        if len(ids) <= context - min(self._params.max_tokens, context // 2):
            return ids
        kept = drop_turns(
            system + said[self._n_dropped :], lambda rest: len(encode_chat(tokenizer, rest)) <= context // 2
        )
        n_dropped = len(said) + len(system) - len(kept)
        if n_dropped > self._n_dropped:
            _tell(f"the context of {context} tokens is full: the oldest {n_dropped} messages are out of it from now on")
        self._n_dropped = n_dropped
        return encode_chat(tokenizer, kept)

    def _command_help(self, _: str) -> None:
        _tell(_HELP)

    def _command_reset(self, _: str) -> None:
        self._said, self._n_dropped = [], 0
        _tell("the conversation begins anew")

    def _command_system(self, text: str) -> None:
        if text:
            self._system = text
        _tell(f"system message: {self._system or 'none'}")

    def _command_retry(self, _: str) -> None:
        if not self._said:
            _tell("nothing has been said yet")
            return
        self._n_dropped = min(self._n_dropped, len(self._said) - 2)
        self._answer(self._said[:-2], self._said[-2]["content"])

    def _command_save(self, name: str) -> None:
        if not name:
            _tell("/save needs the name of a file")
            return
        system = [{"role": "system", "content": self._system}] if self._system else []
        with open(name, "w", encoding="utf-8") as file:
            json.dump(system + self._said, file, ensure_ascii=False, indent=1)
        _tell(f"{len(self._said)} messages in {name}")

    def _command_exit(self, _: str) -> None:
        self.goes_on = False


def _tell(text: str) -> None:
    """What isn't the model's goes to standard error: standard output holds answers alone."""
    print(text, file=sys.stderr)


def _read_line() -> str | None:
    """The next line, edited with readline on a terminal; None at the end. Ctrl-C empties a line that isn't empty."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    try:
        import readline
    except ImportError:
        readline = None
    try:
        return input("> " if on_terminal else "")
    except EOFError:
        print(end="\n" if on_terminal else "")
        return None
    except KeyboardInterrupt:
        print()
        return "" if readline and on_terminal and readline.get_line_buffer() else None
