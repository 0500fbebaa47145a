"""What a request gives back, and the text that grows while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from . import _core


@dataclass(frozen=True)
class Timings:
    """Seconds, but for tokens_per_second: to the first token, between tokens (mean), in all; speed after the first."""

    ttft: float
    itl: float
    tokens_per_second: float
    total: float


class Alternative(NamedTuple):
    """A token that could have stood at a place, with its log probability there."""

    token_id: int
    logprob: float
    text: str


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token and its natural log probability, in float32, under the model's own distribution.

    text: what the token stands for by itself; bytes that are no UTF-8 are U+FFFD, special tokens show theirs.
    top: as many of the likeliest tokens at its place as were asked for, the likeliest first.
    """

    token_id: int
    logprob: float
    text: str
    top: tuple[Alternative, ...]


@dataclass(frozen=True)
class Completion:
    """An answer.

    finish_reason: "stop" (end-of-sequence token or stop string), "length" (max_tokens, or the context is full) or
    "cancelled" (a stream's result before its end). n_truncated_tokens: how many of the prompt's tokens were left out to
    make it fit, which happens only on request; n_prompt_tokens is without them. logprobs: one entry for each of
    token_ids, if they were asked for. score: of a beam search, the text's log probability after the length penalty.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    n_prompt_tokens: int
    timings: Timings
    n_truncated_tokens: int = 0
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)


@dataclass
class Progress:
    """The state of a running completion: its tokens as text, as far as the text is certain.

    Text that could be the beginning of a stop string is held back until it is known not to be.
    """

    tokenizer: Tokenizer
    stop: tuple[str, ...]
    eos_ids: tuple[int, ...]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    score: float | None = None
    started: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self._stream = self.tokenizer.stream()
        self._text = ""
        self._given = 0

    def take(self, event: _core.TokenEvent) -> str:
        """Adds a token; returns the text that became certain by it."""
        self.last = time.perf_counter()
        if not self.token_ids:
            self.first = self.last
        self.token_ids.append(event.token)
        if event.logprob is not None:
            self.logprobs.append(self._logprob(event))
        ends = event.reason == "stop" and event.token in self.eos_ids
        if not (ends or self._means_nothing(event.token)):
            self._text += self._stream.put(event.token)
        if event.finished:
            self._text += self._stream.finish()
            self.finish_reason = event.reason
        self._cut_at_stop()
        certain = len(self._text) if self.finish_reason else self._certain()
        new, self._given = self._text[self._given : certain], max(self._given, certain)
        return new

    def take_whole(self, hypothesis: _core.Hypothesis) -> None:
        """Takes all tokens of a text that a beam search found."""
        self.first = self.last = time.perf_counter()
        self.score = hypothesis.score
        self.token_ids.extend(hypothesis.token_ids)
        shown = [token for token in self.token_ids if not self._means_nothing(token)]
        ended = hypothesis.stopped and shown[-1:] == self.token_ids[-1:] and shown[-1] in self.eos_ids
        self._text = "".join([*map(self._stream.put, shown[:-1] if ended else shown), self._stream.finish()])
        self.finish_reason = "stop" if hypothesis.stopped else "length"

    def result(self, n_prompt_tokens: int, n_truncated_tokens: int, with_logprobs: bool) -> Completion:
        n = len(self.token_ids)
        itl = (self.last - self.first) / (n - 1) if n > 1 else 0.0
        ttft, total = (self.first - self.started, self.last - self.started) if n else (0.0, 0.0)
        return Completion(
            self._text,
            list(self.token_ids),
            self.finish_reason or "cancelled",
            n_prompt_tokens,
            Timings(ttft, itl, 1 / itl if itl > 0 else 0.0, total),
            n_truncated_tokens,
            list(self.logprobs) if with_logprobs else None,
            self.score,
        )

    def _means_nothing(self, token: int) -> bool:
        """Whether it is a row that pads the model's vocabulary."""
        return token >= self.tokenizer.vocab_size

    def _logprob(self, event: _core.TokenEvent) -> TokenLogprob:
        def text(token: int) -> str:
            return "" if self._means_nothing(token) else self.tokenizer.token_text(token)

        top = tuple(Alternative(token, logprob, text(token)) for token, logprob in event.top_logprobs)
        return TokenLogprob(event.token, event.logprob, text(event.token), top)

    def _cut_at_stop(self) -> None:
        found = [at for s in self.stop if (at := self._text.find(s, max(0, self._given - len(s)))) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.finish_reason = "stop"

    def _certain(self) -> int:
        """Length of the text that no stop string can begin in."""
        held = 0
        for s in self.stop:
            for n in range(min(len(s) - 1, len(self._text)), held, -1):
                if self._text.endswith(s[:n]):
                    held = n
                    break
        return len(self._text) - held


@dataclass
class BeamProgress:
    """The completions that a beam search gives, all at once; fewer of them if it found fewer texts."""

    completions: list[Progress]
    finish_reason: str | None = None

    def take(self, event: _core.TokenEvent) -> str:
        for progress, hypothesis in zip(self.completions, event.hypotheses, strict=False):
            progress.take_whole(hypothesis)
        self.finish_reason = event.reason
        return ""
