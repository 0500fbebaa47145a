"""What a hostile case is, and the good files that cases spoil."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiny

SIZES = {"dim": 32, "ffn_dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}


@dataclass(frozen=True)
class Case:
    """make(folder) writes a file or a model folder below `folder` and returns its path; loading that must end in a
    `jiffy.Error` whose text holds `message`."""

    name: str
    make: Callable[[Path], Path]
    message: str


def hf_folder(below: Path, **arguments: object) -> Path:
    """A good Hugging Face folder, for a case to spoil."""
    folder = below / "model"
    tiny.write_hf_llama(folder, **{**SIZES, **arguments})
    return folder


def gguf_file(below: Path, **arguments: object) -> Path:
    """A good GGUF file."""
    path = below / "model.gguf"
    tiny.write_gguf_llama(path, **{**SIZES, **arguments})
    return path


def config(below: Path, **changes: object) -> Path:
    """A good folder whose config.json has other values; `...` takes a key out."""
    folder = hf_folder(below)
    values = {**json.loads((folder / "config.json").read_text()), **changes}
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def without(below: Path, name: str) -> Path:
    folder = hf_folder(below)
    (folder / name).unlink()
    return folder


def folder_instead(below: Path, name: str) -> Path:
    folder = without(below, name)
    (folder / name).mkdir()
    return folder


def pipe_instead(below: Path, name: str) -> Path:
    folder = without(below, name)
    os.mkfifo(folder / name)
    return folder
