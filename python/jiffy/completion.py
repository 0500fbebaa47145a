"""What a request gives back, and the text that grows while it runs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Timings:
    """Seconds, but for tokens_per_second: to the first token, between tokens (mean), in all; speed after the first."""

    ttft: float
    itl: float
    tokens_per_second: float
    total: float


@dataclass(frozen=True)
class Completion:
    """An answer. finish_reason: "stop" (end-of-sequence token or stop string) or "length"."""

    text: str
    token_ids: list[int]
    finish_reason: str
    n_prompt_tokens: int
    timings: Timings

    @property
    def n_tokens(self) -> int:
        return len(self.token_ids)


@dataclass
class Progress:
    """The state of a running request: its tokens as text, as far as the text is certain.

    Text that could be the beginning of a stop string is held back until it is known not to be.
    """

    tokenizer: Tokenizer
    stop: tuple[str, ...]
    n_prompt_tokens: int
    eos_ids: tuple[int, ...]
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    started: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0

    def __post_init__(self) -> None:
        self._stream = self.tokenizer.stream()
        self._text = ""
        self._given = 0

    def take(self, token: int, finished: bool, reason: str | None) -> str:
        """Adds a token; returns the text that became certain by it."""
        self.last = time.perf_counter()
        if not self.token_ids:
            self.first = self.last
        self.token_ids.append(token)
        means_nothing = token >= self.tokenizer.vocab_size  # a row that pads the model's vocabulary
        if not (means_nothing or (reason == "stop" and token in self.eos_ids)):
            self._text += self._stream.put(token)
        if finished:
            self._text += self._stream.finish()
            self.finish_reason = reason
        self._cut_at_stop()
        certain = len(self._text) if self.finish_reason else self._certain()
        new, self._given = self._text[self._given : certain], max(self._given, certain)
        return new

    def result(self) -> Completion:
        n = len(self.token_ids)
        itl = (self.last - self.first) / (n - 1) if n > 1 else 0.0
        timings = Timings(self.first - self.started, itl, 1 / itl if itl > 0 else 0.0, self.last - self.started)
        return Completion(self._text, self.token_ids, self.finish_reason or "length", self.n_prompt_tokens, timings)

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
