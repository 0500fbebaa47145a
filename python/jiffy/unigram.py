"""SentencePiece's unigram models (Kudo 2018): the cut of a text into pieces whose scores have the largest sum.

Sums are rounded to float32 after each piece, from the beginning of the text on, and of equal ones the first is kept, as
the library sentencepiece does it: in natural text there are ties ("......."), which rounding decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .errors import ParameterError
from .spelling import SPACE

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_UNKNOWN_PENALTY = 10.0
_MOST_CHARS = 1 << 21  # each needs some hundred bytes while it is cut


class Piece(NamedTuple):
    """kind: NORMAL to BYTE."""

    text: str
    score: float
    kind: int


class Unigram:
    """Text to ids. replaced: what is done to its characters first; adds_space: a text has a space in front; trims:
    superfluous spaces go."""

    def __init__(self, pieces: list[Piece], replaced: Callable[[str], str], adds_space: bool, trims: bool) -> None:
        self.adds_space = adds_space
        self._replaced, self._trims = replaced, trims
        normal = [piece.score for piece in pieces if piece.kind == NORMAL]
        self._unknown_score = np.float32(min(normal, default=0.0) - _UNKNOWN_PENALTY)
        self._unknown = next(i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN)
        most = max(normal, default=0.0)
        self._starts: dict[str, tuple[int, np.float32] | None] = {}  # every beginning of a piece; what it is if whole
        for i, piece in enumerate(pieces):
            if piece.kind not in (NORMAL, USER_DEFINED) or not piece.text:
                continue
            for n in range(1, len(piece.text)):
                self._starts.setdefault(piece.text[:n], None)
            own = piece.kind == USER_DEFINED
            score = len(piece.text.encode()) * most - 0.1 if own else piece.score
            self._starts[piece.text] = i, np.float32(score)
        self._bytes = {piece.text: i for i, piece in enumerate(pieces) if piece.kind == BYTE}

    def __call__(self, text: str) -> list[int]:
        """Raises ParameterError for a text of more than two million characters."""
        text = self._replaced(text)
        if self._trims:
            text = re.sub(" +", " ", text).strip(" ")
        if not text:
            return []
        if len(text) > _MOST_CHARS:
            raise ParameterError("text", expected=f"at most {_MOST_CHARS} characters", found=str(len(text)))
        text = (" " * self.adds_space + text).replace(" ", SPACE)
        return self._spelled(text, self._cut(text))

    def _cut(self, text: str) -> list[tuple[int, int]]:
        """(where a piece ends, its id), in order."""
        starts = self._starts
        score: list[np.float32 | None] = [np.float32(0), *[None] * len(text)]
        came: list[tuple[int, int]] = [(0, 0)] * (len(text) + 1)
        for begin in range(len(text)):
            here, single = score[begin], False
            end = begin
            while end < len(text):
                end += 1
                piece = text[begin:end]
                if piece not in starts:
                    break
                whole = starts[piece]
                if whole is None:
                    continue
                single = single or end == begin + 1
                sum_ = here + whole[1]
                if score[end] is None or sum_ > score[end]:
                    score[end], came[end] = sum_, (begin, whole[0])
            if not single:
                end, sum_ = begin + 1, here + self._unknown_score
                if score[end] is None or sum_ > score[end]:
                    score[end], came[end] = sum_, (begin, self._unknown)
        path, end = [], len(text)
        while end > 0:
            begin, piece_id = came[end]
            path.append((end, piece_id))
            end = begin
        return path[::-1]

    def _spelled(self, text: str, path: list[tuple[int, int]]) -> list[int]:
        """Unknown characters in a row are one id; or their bytes, where the model has these."""
        ids: list[int] = []
        begin, unknown = 0, False
        for end, piece_id in path:
            if piece_id == self._unknown and self._bytes:
                ids += [self._bytes.get(f"<0x{byte:02X}>", piece_id) for byte in text[begin:end].encode()]
            elif piece_id != self._unknown or not unknown:
                ids.append(piece_id)
            unknown, begin = piece_id == self._unknown, end
        return ids
