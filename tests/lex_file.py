"""Lexical shortlists as Marian's students come with, written and read the slow way."""

from __future__ import annotations

import struct

MAGIC = 0xF11A48D5013417F5
_U64 = (1 << 64) - 1


def checksum(raw: bytes) -> int:
    """Of whole 64-bit words."""
    total = 0
    for (word,) in struct.iter_unpack("<Q", raw[: len(raw) // 8 * 8]):
        total ^= (word + 0x9E3779B9 + (total << 6) + (total >> 2)) & _U64
    return total


def lex_file(lists: list[list[int]], first: int, best: int = 100) -> bytes:
    """lists: the translations of each source token. first: so many tokens translate anything."""
    offsets = [0]
    for one in lists:
        offsets.append(offsets[-1] + len(one))
    return from_parts(first, best, offsets, [token for one in lists for token in one])


def from_parts(first: int, best: int, offsets: list[int], ids: list[int]) -> bytes:
    body = struct.pack(f"<4Q{len(offsets)}Q{len(ids)}I", first, best, len(offsets), len(ids), *offsets, *ids)
    return struct.pack("<2Q", MAGIC, checksum(body)) + body


def candidates(lists: list[list[int]], first: int, source: list[int], vocab: int, shared: bool) -> list[int]:
    found = set(range(min(first, vocab)))
    for token in source:
        if token < len(lists):
            found.update(lists[token])
            found.update([token] if shared and token < vocab else [])
    return sorted(found)
