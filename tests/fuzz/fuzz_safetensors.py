"""A folder of safetensors files.

An input is {"index": the index or null, a file's stem: [its header, bytes of data], ...}, or else the bytes of
model.safetensors.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from jiffy.safetensors import read_safetensors_folder

from .mutation import mutated_json

_STEMS = ("model", "a", "b")
_INDEX = "model.safetensors.index.json"


def seeds() -> list[bytes]:
    def header(*names: str) -> dict:
        return {
            n: {"dtype": "F16", "shape": [3, 2], "data_offsets": [12 * i, 12 * i + 12]} for i, n in enumerate(names)
        }

    index = {"metadata": {"x": "y"}, "weight_map": {"p": "a.safetensors", "q": "b.safetensors"}}
    head = json.dumps(header("p")).encode()
    return [
        json.dumps({"model": [{"__metadata__": {"format": "pt"}, **header("p", "q")}, 24]}).encode(),
        json.dumps({"index": index, "a": [header("p"), 12], "b": [header("q"), 12]}).encode(),
        len(head).to_bytes(8, "little") + head + bytes(12),
    ]


def one(data: bytes, folder: Path) -> None:
    for name in (_INDEX, *(f"{stem}.safetensors" for stem in _STEMS)):
        (folder / name).unlink(missing_ok=True)
    _write(data, folder)
    for entry in read_safetensors_folder(folder).values():
        if entry.shape:
            assert entry.read_rows(0, entry.n_rows).shape == (entry.n_rows, entry.row_bytes)


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    return mutated_json(data, max_size, rng)


def _write(data: bytes, folder: Path) -> None:
    try:
        described = json.loads(data)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        (folder / "model.safetensors").write_bytes(data)
        return
    if described.get("index") is not None:
        (folder / _INDEX).write_text(json.dumps(described["index"]))
    for stem in _STEMS:
        match described.get(stem):
            case [header, int(n_bytes)]:
                head = json.dumps(header).encode()
                prefix = len(head).to_bytes(8, "little")
                (folder / f"{stem}.safetensors").write_bytes(prefix + head + bytes(min(max(n_bytes, 0), 4096)))
