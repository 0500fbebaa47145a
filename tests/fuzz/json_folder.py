"""Folders of JSON files as inputs: {file name: its content, ...}, or else the bytes of the first file."""

from __future__ import annotations

import json
from pathlib import Path


def write_folder(data: bytes, folder: Path, names: tuple[str, ...]) -> dict[str, object]:
    """Writes those of `names` that the input has; returns the input, empty if it was bytes."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    try:
        described = json.loads(data)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        (folder / names[0]).write_bytes(data)
        return {}
    for name in names:
        if name in described:
            (folder / name).write_text(json.dumps(described[name]))
    return described
