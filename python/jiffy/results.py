"""Results of any number of texts, a few hundred of which are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from .encoder_texts import Text
from .errors import Error

T = TypeVar("T")

CHUNK_TEXTS = 512  # that are tokens at a time
CHUNK_CHARACTERS = 1 << 18  # of texts at a time, or a single one that is longer


class Results(Iterator):
    """Results of texts in their order, made a chunk at a time when they are asked for.

    chunk: makes the results of some texts, errors among them. raises: whether an error is raised at its turn; the
    iterator goes on with the next text after that. What fails while a chunk is made (Ctrl-C, no memory) leaves its
    texts to be asked for again.
    """

    def __init__(self, texts: Iterable[Text], chunk: Callable[[list[Text]], list], raises: bool) -> None:
        self._texts = iter(texts)
        self._chunk = chunk
        self._raises = raises
        self._made: Callable[[object], object] = lambda result: result
        self._taken: list[Text] = []
        self._ready: list = []

    def then(self, made: Callable[[object], object]) -> Results:
        """From now on gives what `made` makes of a result; an error stays one."""
        self._made = made
        return self

    def __next__(self) -> object:
        if not self._ready:
            if not self._taken:
                self._taken = self._take()
            if not self._taken:
                raise StopIteration
            self._ready = self._chunk(self._taken)[::-1]
            self._taken = []
        result = self._ready.pop()
        if not isinstance(result, Error):
            return self._made(result)
        if self._raises:
            raise result
        return result

    def _take(self) -> list[Text]:
        some: list[Text] = []
        characters = 0
        for text in self._texts:
            some.append(text)
            characters += sum(map(_length, text)) if isinstance(text, tuple) else _length(text)
            if len(some) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
                break
        return some


def watched(results: Iterator[T], total: int, what: str = "texts") -> Iterator[T]:
    """The results, and on a terminal a bar that tells how far they are."""
    import sys

    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, what, total=total, console=Console(stderr=True), transient=True)


def _length(text: object) -> int:
    return len(text) if isinstance(text, str) else 0
