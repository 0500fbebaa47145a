"""SentencePiece's table of characters (precompiled_charsmap): what stands for what before a text is cut into pieces.

The table is a trie of strings in UTF-8 (a double array as darts-clone builds it) before their replacements. At each
place of a text the longest string of the table counts. The library tokenizers has a normalizer for it that looks at
whole graphemes, and loses accents behind a ligature; so the table is read here.

A unit of the array is a node: eight bits of its label, and where its children lie, each at the place that its own label
makes of that one; a node with a leaf has an offset into the replacements at this place itself.
"""

from __future__ import annotations

from itertools import pairwise

from .errors import FormatError

_MANY = 1 << 18  # pairs that are kept
_MAX_CHARS = 64  # of a string; the longest known has 18


class CharsMap:
    """The replacements of a table. Raises FormatError for a damaged one, when it is found to be so."""

    def __init__(self, raw: bytes, where: str) -> None:
        size = int.from_bytes(raw[:4], "little")
        if len(raw) < 8 or size % 4 or not 4 <= size <= len(raw) - 4:
            raise FormatError(where, expected="a trie and its replacements", found=f"{len(raw)} bytes")
        self._where = where
        self._units = memoryview(raw)[4 : 4 + size].cast("I")
        self._texts = raw[4 + size :]
        self._single: dict[int, str] = {}  # of the characters seen so far
        self._joined: dict[tuple[str, str], bool] = {}  # pairs seen so far: whether a string begins so

    def __call__(self, text: str) -> str:
        """A text with all its replacements."""
        for char in set(text):
            if ord(char) not in self._single:
                self._single[ord(char)] = (self._find(char) or (1, char))[1]
        pairs = list(pairwise(text))
        if len(self._joined) > _MANY:
            self._joined.clear()
        for pair in set(pairs) - self._joined.keys():
            self._joined[pair] = self._walk("".join(pair)) is not None
        done, at = [], 0
        for start, pair in enumerate(pairs):
            found = self._find(text[start : start + _MAX_CHARS]) if start >= at and self._joined[pair] else None
            if found is not None and found[0] > 1:
                done += [text[at:start].translate(self._single), found[1]]
                at = start + found[0]
        done.append(text[at:].translate(self._single))
        return "".join(done)

    def _find(self, text: str) -> tuple[int, str] | None:
        """How many characters the longest string has that the text begins with, and what stands for it."""
        node, found = 0, None
        for n, char in enumerate(text, 1):
            node = self._walk(char, node)
            if node is None:
                break
            if self._units[node] & 256:
                found = n, self._text(node)
        return found

    def _walk(self, text: str, node: int = 0) -> int | None:
        for byte in text.encode():
            node = self._place(node) ^ byte
            if byte == 0 or node >= len(self._units) or self._units[node] & 0x800000FF != byte:
                return None
        return node

    def _place(self, node: int) -> int:
        unit = self._units[node]
        return node ^ (unit >> 10) << ((unit & 512) >> 6)

    def _text(self, node: int) -> str:
        place = self._place(node)
        offset = self._units[place] & 0x7FFFFFFF if place < len(self._units) else len(self._texts)
        end = self._texts.find(b"\0", offset)
        try:
            return self._texts[offset:end].decode() if end >= 0 else self._damaged()
        except UnicodeDecodeError:
            return self._damaged()

    def _damaged(self) -> str:
        raise FormatError(self._where, expected="replacements in UTF-8", found="something else")
