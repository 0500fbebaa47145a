"""Requests on their way through the engine: encode -> step -> decode, until every completion has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import _core
from .completion import BeamProgress, Completion, Progress
from .errors import Error
from .prompts import Prompt
from .running import Running
from .sampling import SamplingParams

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

_SMALLEST_F32 = 1e-45  # above 0 as float32


class Requests:
    """The prompts of one call, params.n completions of each; one ragged batch. A completion that meets a stop string is
    cancelled alone, as soon as it does."""

    def __init__(
        self,
        running: Running,
        tokenizer: Tokenizer,
        eos_ids: tuple[int, ...],
        prompts: list[Prompt],
        params: SamplingParams,
        keep_errors: bool = False,
    ) -> None:
        """keep_errors: a request that fails leaves the others alone, and its error is its result."""
        self._errors: dict[int, Error] | None = {} if keep_errors else None  # by the engine's numbers
        self._running, self._eos_ids, self._prompts, self._params = running, eos_ids, prompts, params
        self._completions = [Progress(tokenizer, params.stop, eos_ids) for _ in prompts for _ in range(params.n)]
        self._numbers: list[int] = []  # the engine's, of what has begun and isn't in _open yet
        self._open: dict[int, Progress | BeamProgress] = {}  # by the engine's numbers
        self._events: deque[_core.TokenEvent | None] = deque()  # tokens to take; None when there will be no more

    def start(self) -> None:
        for prompt in self._prompts:
            self._running.begin(self._numbers, self._events, prompt.ids, **self._options(prompt))
        self._began = dict(zip(self._numbers, range(len(self._numbers)), strict=True))
        self._open.update(zip(self._numbers, self._takers(), strict=True))
        self._numbers.clear()

    def run(self) -> list[list[Completion] | Error]:
        """All from the start to the end; gives the results."""
        try:
            self.start()
            for _ in self.texts():
                pass
        finally:
            self.close()
        return self.results()

    def texts(self) -> Iterator[str]:
        """Runs until all has ended; yields what text becomes certain, of whichever completion."""
        while self._open:
            event = self._running.next_event(self._events)
            progress = self._open.get(event.request) if event else None
            if progress is None:  # computed before its completion was stopped
                continue
            if event.error is not None:
                self._fail(event)
                continue
            text = progress.take(event)
            if progress.finish_reason is not None:
                end = self._running.forget if event.finished else self._running.end
                end(event.request)
                self._open.pop(event.request, None)  # another thread may have closed it meanwhile
            if text:
                yield text

    def results(self) -> list[list[Completion] | Error]:
        """For each prompt its completions, as far as they are, or the error that was kept."""
        n, with_logprobs = self._params.n, self._params.logprobs is not None
        searched, failed = self._params.n_beams > 1, self._failed()
        return [
            failed[i]
            if i in failed
            else [
                progress.result(len(prompt.ids), prompt.n_truncated, with_logprobs)
                for progress in self._completions[i * n : (i + 1) * n]
                if not searched or progress.finish_reason
            ]
            for i, prompt in enumerate(self._prompts)
        ]

    def close(self) -> None:
        """Cancels what still runs; harmless when all is done. A thread that waits for a token waits no longer."""
        for number in (*self._numbers, *self._open):
            self._running.end(number)
        self._numbers.clear()
        self._open.clear()
        self._events.append(None)

    def __del__(self) -> None:
        for number in (*getattr(self, "_numbers", ()), *getattr(self, "_open", ())):
            self._running.abandon(number)

    def _fail(self, event: _core.TokenEvent) -> None:
        if self._errors is None:
            raise event.error
        self._running.forget(event.request)
        self._open.pop(event.request, None)
        self._errors[event.request] = event.error

    def _failed(self) -> dict[int, Error]:
        """The errors that were kept, by the numbers of their prompts."""
        each = self._params.n if self._params.n_beams == 1 else 1
        return {self._began[number] // each: error for number, error in (self._errors or {}).items()}

    def _takers(self) -> list[Progress] | list[BeamProgress]:
        """Who takes the events of each of the engine's requests."""
        if self._params.n_beams == 1:
            return self._completions
        n = self._params.n
        return [BeamProgress(self._completions[i * n : (i + 1) * n]) for i in range(len(self._prompts))]

    def _options(self, prompt: Prompt) -> dict[str, object]:
        p = self._params
        return {
            "n": p.n if p.n_beams == 1 else 1,
            "max_tokens": prompt.max_tokens or p.max_tokens,
            "temperature": p.temperature,
            "top_k": p.top_k,
            "top_p": max(p.top_p, _SMALLEST_F32),
            "min_p": p.min_p,
            "repetition_penalty": max(p.repetition_penalty, _SMALLEST_F32),
            "presence_penalty": p.presence_penalty,
            "frequency_penalty": p.frequency_penalty,
            "logprobs": -1 if p.logprobs is None else p.logprobs,
            "seed": p.seed,
            "ignore_eos": p.ignore_eos,
            "stop_ids": list(self._eos_ids),
            "constraints": constraints(p),
            "beams": beams(p),
            "source": prompt.source,
        }


def constraints(p: SamplingParams) -> _core.Constraints:
    return _core.Constraints(
        min_tokens=p.min_tokens,
        no_repeat_ngram=p.no_repeat_ngram_size,
        forced_first=-1 if p.forced_bos_token_id is None else p.forced_bos_token_id,
        forced_last=-1 if p.forced_eos_token_id is None else p.forced_eos_token_id,
        bad_words=p.bad_words_ids,
    )


def beams(p: SamplingParams) -> _core.BeamParams:
    kinds = {False: _core.EarlyStopping.no, True: _core.EarlyStopping.yes, "never": _core.EarlyStopping.never}
    stopping = kinds[p.early_stopping]
    n = p.n if p.n_beams > 1 else 1
    return _core.BeamParams(width=p.n_beams, n=n, length_penalty=p.length_penalty, early_stopping=stopping)


class Stream:
    """The text of a running request, piece by piece. Any thread may close it, also while another waits for a piece."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        requests.start()
        self._texts = requests.texts()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._texts)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels the request if it still runs."""
        self._requests.close()

    def result(self) -> Completion:
        """What has been generated: all of it after the last piece, what there is so far before."""
        return self._requests.results()[0][0]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
