"""SentencePiece's table of characters (precompiled_charsmap): what stands for what before a text is cut into pieces.

The table is a trie of strings in UTF-8 (a double array as darts-clone builds it) before their replacements. At each place
of a text the longest string of the table counts. The library tokenizers has a normalizer for it that looks at whole
graphemes, and loses accents behind a ligature; so the table is read out here.
"""

from __future__ import annotations

import re

import numpy as np

from .errors import FormatError

_MAX_DEPTH = 64  # bytes of a string


class CharsMap:
    """The replacements of a table. Raises FormatError for a damaged one."""

    def __init__(self, raw: bytes, where: str) -> None:
        size = int.from_bytes(raw[:4], "little")
        if len(raw) < 8 or size % 4 or not 4 <= size <= len(raw) - 4:
            raise FormatError(where, expected="a trie and its replacements", found=f"{len(raw)} bytes")
        units = np.frombuffer(raw, "<u4", size // 4, 4).astype(np.int64)
        pairs = dict(_strings(units, raw[4 + size :], where))
        self._single = {ord(key): text for key, text in pairs.items() if len(key) == 1}
        self._long = {key: text for key, text in pairs.items() if len(key) > 1}
        self._longest = max(map(len, self._long), default=1)
        later = sorted({char for key in self._long for char in key[1:]})
        self._later = re.compile("[" + re.escape("".join(later)) + "]" if later else r"(?!)")

    def __call__(self, text: str) -> str:
        """A text with all its replacements."""
        done, at = [], 0
        for match in self._later.finditer(text):
            start = match.start() - 1
            if start < at:
                continue
            for n in range(self._longest, 1, -1):
                found = self._long.get(text[start : start + n]) if start + n <= len(text) else None
                if found is not None:
                    done += [text[at:start].translate(self._single), found]
                    at = start + n
                    break
        done.append(text[at:].translate(self._single))
        return "".join(done)


def _strings(units: np.ndarray, texts: bytes, where: str):
    """Every string of the trie with its replacement. A unit is a node: eight bits of its label and where its children
    lie, one behind the other but for their labels; a leaf has an offset into the replacements instead."""
    label = units & 0x800000FF
    inner = np.flatnonzero((label < 256) & (label > 0))
    children: dict[int, list[int]] = {}
    for index, parent in zip(inner.tolist(), (inner ^ label[inner]).tolist(), strict=True):
        children.setdefault(parent, []).append(index)
    places = np.arange(len(units)) ^ ((units >> 10) << ((units & 512) >> 6))
    waiting: list[tuple[int, bytes]] = [(0, b"")]
    while waiting:
        node, key = waiting.pop()
        place = int(places[node])
        if node and units[node] & 256:
            yield (
                _decoded(key, where),
                _decoded(_text_at(texts, int(units[place]) & 0x7FFFFFFF if place < len(units) else -1), where),
            )
        if len(key) == _MAX_DEPTH:
            raise FormatError(where, expected=f"strings of at most {_MAX_DEPTH} bytes", found="longer ones")
        waiting += [(child, key + bytes((int(label[child]),))) for child in children.get(place, []) if child != node]


def _text_at(texts: bytes, offset: int) -> bytes:
    end = texts.find(b"\0", offset) if 0 <= offset < len(texts) else -1
    return b"\xff" if end < 0 else texts[offset:end]  # which is no UTF-8


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise FormatError(where, expected="strings in UTF-8", found="others") from None
