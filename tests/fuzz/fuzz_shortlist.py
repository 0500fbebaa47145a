"""Lexical shortlists, with a checksum that fits what was changed."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import atheris

from jiffy import _core
from lex_file import MAGIC, checksum, lex_file

_N = 24
_LISTS = [[(i * k + 5) % _N for k in range(i % 5)] for i in range(_N)]


def seeds() -> list[bytes]:
    return [lex_file(_LISTS, 3)[16:], lex_file([[] for _ in _LISTS], _N)[16:]]


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    """Mostly a number of its own size, else any bytes."""
    if len(data) < 48 or rng.random() < 0.2:
        return atheris.Mutate(data, max_size)
    raw, kind = bytearray(data), rng.choice("QI")
    at = rng.randrange(len(raw) // struct.calcsize(kind)) * struct.calcsize(kind)
    struct.pack_into(f"<{kind}", raw, at, rng.choice([0, 1, 3, _N - 1, _N, 48, 1 << 31, (1 << 32) - 1]))
    return bytes(raw)


def one(data: bytes, folder: Path) -> None:
    raw = struct.pack("<2Q", MAGIC, checksum(data)) + data
    fit = {"source_vocab": _N, "target_vocab": _N, "shared": bool(len(data) % 2), "eos_ids": [0]}
    shortlist = _core.Shortlist(raw, "lex.bin", **fit)
    for source in ([], [0], list(range(-2, _N + 3))):
        ids = shortlist.candidates(source)
        assert ids[0] == 0 and ids == sorted(set(ids)) and ids[-1] < _N
