"""Results of any number of texts, a few hundred of which are in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .encoder_texts import Text
from .errors import Error

CHUNK_TEXTS = 512  # that are tokens at a time
CHUNK_CHARACTERS = 1 << 20  # of texts at a time, or a single one that is longer


class Results(Iterator):
    """Results of texts in their order, made a chunk at a time when they are asked for. After an error of one text the
    iterator goes on with the next."""

    def __init__(self, texts: Iterable[Text], chunk: Callable[[list[Text]], list], raises: bool) -> None:
        self._texts = iter(texts)
        self._chunk = chunk
        self._raises = raises
        self._ready: list = []

    def __next__(self):
        if not self._ready:
            some = self._take()
            if not some:
                raise StopIteration
            self._ready = self._chunk(some)[::-1]
        result = self._ready.pop()
        if self._raises and isinstance(result, Error):
            raise result
        return result

    def _take(self) -> list[Text]:
        some, characters = [], 0
        for text in self._texts:
            some.append(text)
            characters += sum(map(len, text)) if isinstance(text, tuple) else len(text) if isinstance(text, str) else 0
            if len(some) == CHUNK_TEXTS or characters >= CHUNK_CHARACTERS:
                break
        return some
