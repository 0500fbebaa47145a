"""A GGUF file, header and all, as far as `open_checkpoint` goes; every row of what opens is read."""

from __future__ import annotations

import random
import struct
import tempfile
from pathlib import Path

import atheris

import tiny
from jiffy.checkpoint import open_checkpoint

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_SIZES = {"dim": 32, "ffn_dim": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 262}


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        made = []
        for dtype in ("q4_0", "q8_0", "f16"):
            tiny.write_gguf_llama(path, **_SIZES, dtype=dtype)
            made.append(path.read_bytes())
        return made


def one(data: bytes, folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(data)
    for entry in open_checkpoint(path).tensors.values():
        assert entry.read_rows(0, entry.n_rows).shape == (entry.n_rows, entry.row_bytes)


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    """Changes one field of the header, a string together with its length, or any bytes."""
    fields = _fields(data) if rng.random() < 0.8 else []
    if not fields:
        return atheris.Mutate(data, max_size)
    start, stop, is_string = rng.choice(fields)
    new = atheris.Mutate(data[start:stop], stop - start + 8 * is_string)
    if is_string:
        return (data[: start - 8] + struct.pack("<Q", len(new)) + new + data[stop:])[:max_size]
    return data[:start] + new[: stop - start].ljust(stop - start, b"\0") + data[stop:]


def _fields(data: bytes) -> list[tuple[int, int, bool]]:
    """(start, stop, whether it is a string) of the fields of the header, as far as they can be followed."""
    fields: list[tuple[int, int, bool]] = [(4, 8, False), (8, 16, False), (16, 24, False)]
    try:
        n_tensors, n_pairs = struct.unpack_from("<QQ", data, 8)
        at = 24
        for _ in range(n_pairs):
            at = _value(data, _string(data, at, fields), fields)
        for _ in range(n_tensors):
            at = _string(data, at, fields)
            n_dims = struct.unpack_from("<I", data, at)[0]
            for width in (4, *[8] * min(n_dims, 8), 4, 8):
                fields.append((at, at + width, False))
                at += width
    except (struct.error, KeyError, MemoryError, OverflowError):
        pass
    return [field for field in fields if field[1] <= len(data)]


def _string(data: bytes, at: int, fields: list[tuple[int, int, bool]]) -> int:
    stop = at + 8 + struct.unpack_from("<Q", data, at)[0]
    fields += [(at, at + 8, False), (at + 8, stop, True)]
    return stop


def _value(data: bytes, at: int, fields: list[tuple[int, int, bool]]) -> int:
    kind = struct.unpack_from("<I", data, at)[0]
    fields.append((at, at + 4, False))
    at, n = at + 4, 1
    if kind == _ARRAY:
        kind, n = struct.unpack_from("<IQ", data, at)
        fields += [(at, at + 4, False), (at + 4, at + 12, False)]
        at += 12
    if kind == _STRING:
        for _ in range(n):
            at = _string(data, at, fields)
        return at
    fields.append((at, at + _WIDTHS[kind] * n, False))
    return at + _WIDTHS[kind] * n
