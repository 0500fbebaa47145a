"""Heaps of words: texts that say nothing, from which an encoder shows what words do to each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

_MOST = 16_000
_LEAST = 100  # and one more for each word
_LENGTHS = 3, 35  # words
_SIGNS = ",.,.\"'-?();:"
_SIGN_SHARE = 0.12  # of the words of every second heap


def heaps(words: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Words drawn by their shares, the same ones each time; every second heap has signs and ends in a full stop."""
    source = random.Random(0)
    sums = list(accumulate(shares))
    found = []
    for i in range(min(_MOST, _LEAST + len(words))):
        drawn = source.choices(words, cum_weights=sums, k=source.randint(*_LENGTHS))
        if i % 2:
            drawn = [f"{word} {_sign(source)}" if source.random() < _SIGN_SHARE else word for word in drawn] + ["."]
        found.append(" ".join(drawn))
    return found


def _sign(source: random.Random) -> str:
    return _SIGNS[int(source.random() * len(_SIGNS))]
