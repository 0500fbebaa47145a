"""Static vectors: an input that begins as numpy's files do is x.npy beside its words, all else the text x.vec."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from jiffy.static_files import read_static


def seeds() -> list[bytes]:
    array = io.BytesIO()
    np.save(array, np.ones((2, 3), np.float32))
    return [b"2 3\none 1 2 3\ntwo 4 5e-1 -6\n", "eins 1 2\nzwölf 3 4\r\n. . 5 6\n".encode(), array.getvalue()]


def one(data: bytes, folder: Path) -> None:
    path = folder / ("x.npy" if data.startswith(b"\x93") else "x.vec")
    path.write_bytes(data)
    (folder / "x.txt").write_bytes(b"one\ntwo\n")
    table = read_static(path)
    assert np.isfinite(table.rows).all() and len(table.rows) == len(set(table.words or []))
