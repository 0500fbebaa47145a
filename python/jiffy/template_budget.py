"""What one rendering of an untrusted template may use: time, steps and characters."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from time import monotonic

MAX_STEPS = 2_000_000  # loop turns, calls, filters and values looked at; a chat of 1000 messages needs some 10,000
MAX_INT_BITS = 4096
_CHARS_PER_OUTPUT_CHAR = 32  # all text ever made, in units of the longest text allowed

_COLLECTIONS = (list, tuple, set, frozenset, Mapping, KeysView, ValuesView, ItemsView)


class Spent(Exception):
    """A template asks for more than its budget holds."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(f"expected {expected}, found {found}")
        self.expected = expected
        self.found = found


class Budget:
    """Raises Spent as soon as anything is used up, and before a text or collection of more than max_chars is made.

    A collection weighs what its values weigh, shared ones every time, since printing it would write them every time:
    forty nested pairs are forty small objects, but 2**40 values.
    """

    def __init__(self, seconds: float, max_chars: int) -> None:
        self.max_chars = max_chars
        self._seconds = seconds
        self._deadline = monotonic() + seconds
        self._steps = MAX_STEPS
        self._chars = _CHARS_PER_OUTPUT_CHAR * max_chars
        self._weights: dict[int, tuple[object, int]] = {}  # by id(); the object is held so that its id stays its own

    def step(self) -> None:
        """To be called before whatever can be repeated."""
        self._steps -= 1
        if self._steps < 0:
            raise Spent(f"at most {MAX_STEPS} steps", "more")
        if monotonic() > self._deadline:
            raise Spent(f"at most {self._seconds:g} seconds", "more")

    def steps(self, values: Iterable) -> Iterator:
        """The values, each a step."""
        for value in values:
            self.step()
            yield value

    def room(self, n_chars: int) -> None:
        """Refuses, before it is made, what would be longer than max_chars."""
        if n_chars > self.max_chars:
            raise Spent(f"at most {self.max_chars} characters", "more")

    def bits(self, n_bits: int) -> None:
        """Refuses, before it is made, a larger integer than any template needs."""
        if n_bits > MAX_INT_BITS:
            raise Spent(f"integers of at most {MAX_INT_BITS} bits", "more")

    def kept(self, value: object) -> object:
        """Counts a value that was just made, and returns it."""
        if isinstance(value, int):
            self.bits(value.bit_length())
        elif isinstance(value, str) or (isinstance(value, _COLLECTIONS) and id(value) not in self._weights):
            self._chars -= self.weight(value)
            if self._chars < 0:
                raise Spent(f"at most {_CHARS_PER_OUTPUT_CHAR * self.max_chars} characters in all", "more")
        return value

    def weight(self, value: object) -> int:
        """About the number of characters that printing a value takes."""
        if isinstance(value, str):
            self.room(len(value))
            return len(value) + 1
        if not isinstance(value, _COLLECTIONS):
            return 1
        if id(value) not in self._weights:
            parts = (part for pair in value.items() for part in pair) if isinstance(value, Mapping) else value
            total = 1
            for part in self.steps(parts):
                total += self.weight(part)
                self.room(total)
            self._weights[id(value)] = (value, total)
        return self._weights[id(value)][1]
