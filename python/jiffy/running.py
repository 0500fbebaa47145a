"""The requests of one engine, from any number of threads: whoever waits for a token steps the engine for everybody.

Ctrl-C raises KeyboardInterrupt between any two steps of Python, also in a thread that just then holds other threads'
tokens. So what must not be lost moves inside single calls of C: `_once` makes an engine's call a part of `extend`.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, starmap
from typing import TYPE_CHECKING

from .errors import ForkError

if TYPE_CHECKING:
    import numpy as np

    from . import _core


def _once(call: Callable) -> Iterator:
    """An iterator over the result of one call, made when it is asked for."""
    return starmap(call, ((),))


Events = deque["_core.TokenEvent | None"]  # tokens that their caller hasn't taken yet


class Running:
    """Requests by the engine's numbers. Every method raises ForkError in a forked child."""

    def __init__(self, engine: _core.Engine) -> None:
        self._engine = engine
        self._process = os.getpid()
        self._lock = threading.Lock()  # held by whoever computes, or begins or ends a request
        self._events: dict[int, Events] = {}  # by request: where its tokens go
        self._fresh: deque[_core.TokenEvent] = deque()  # tokens that belong to anyone
        self._nobody: deque[_core.TokenEvent] = deque(maxlen=0)
        self._abandoned: deque[int] = deque()
        _all.add(self)

    def begin(self, numbers: list[int], events: Events, prompt: list[int], **options: object) -> None:
        """Adds a prompt's completions to the engine and their numbers to `numbers`: both or neither, even if Ctrl-C
        gets between. Their tokens will come to `events`."""
        with self._turn():  # no step can hand out a token before there is a queue for it
            n_before = len(numbers)
            numbers.extend(chain.from_iterable(_once(partial(self._engine.add, prompt, **options))))
            self._events.update(dict.fromkeys(numbers[n_before:], events))

    def next_event(self, events: Events) -> _core.TokenEvent | None:
        """The next token that comes to `events`, computed if need be; or None, if somebody put that there."""
        while not events:
            with self._turn():
                if not events:
                    self._step()
        return events.popleft()

    def forget(self, number: int) -> None:
        """For a request that has had its last token: nothing more will come."""
        self._events.pop(number, None)

    def end(self, number: int) -> None:
        """Cancels a request, or forgets it if it is done."""
        with self._turn():
            self._forget(number)

    def abandon(self, number: int) -> None:
        """Has the next step cancel a request. For finalisers, which may run in the thread that holds the lock."""
        self._abandoned.append(number)

    def logits(self, token_ids: list[int], source: list[int] | None = None) -> np.ndarray:
        """float32 [n_tokens, vocab_size]. source: the tokens that an encoder reads first."""
        with self._turn():
            return self._engine.logits(token_ids, source or [])

    def score(self, token_ids: list[int]) -> np.ndarray:
        """float32 [n_tokens - 1]."""
        with self._turn():
            return self._engine.score(token_ids)

    def stop(self) -> None:
        """Waits for the step under way, and lets nobody begin another."""
        if os.getpid() == self._process:
            self._lock.acquire(timeout=5)

    def _turn(self) -> threading.Lock:
        """The lock, for a `with`; in a child of fork() it may be held by a thread that isn't there."""
        if os.getpid() != self._process:
            raise ForkError("model", expected="the process that loaded it", found="a forked child; load it again there")
        return self._lock

    def _step(self) -> None:
        while self._abandoned:
            self._forget(self._abandoned[0])
            self._abandoned.popleft()
        if not self._fresh:
            self._fresh.extend(chain.from_iterable(_once(self._engine.step)))
        while self._fresh:
            queue = self._events.get(self._fresh[0].request, self._nobody)
            queue.extend(_once(self._fresh.popleft))

    def _forget(self, number: int) -> None:
        self._engine.cancel(number)
        self._events.pop(number, None)


_all: weakref.WeakSet[Running] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A daemon thread that comes back to Python after its end is unwound, which native code can't survive."""
    for running in list(_all):
        running.stop()
