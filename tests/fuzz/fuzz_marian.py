"""Marian's model files, and sentencepiece's beside them; the first byte of an input says which of both it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import tiny_marian
from jiffy.marian_bin import open_marian
from jiffy.named_files import FilesOfFolder
from jiffy.tokenizer import Tokenizer
from jiffy.tokenizer_spm import vocabulary_from_spm

_TEXT = "ab abc. \ufb01\u0301 </s> \x00 the"


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_marian.write_marian(folder, int8=True)
        return [b"m" + (folder / "model.bin").read_bytes(), b"v" + (folder / "vocab.spm").read_bytes()]


def one(data: bytes, folder: Path) -> None:
    if data[:1] == b"m":
        path = folder / "model.bin"
        path.write_bytes(data[1:])
        tensors = open_marian(path).tensors
        assert all(entry.values.size for entry in tensors.values())
        return
    path = folder / "vocab.spm"
    path.write_bytes(data[1:])
    tokenizer = Tokenizer(vocabulary_from_spm(FilesOfFolder(folder), path.name), path.name)
    assert all(0 <= token_id < tokenizer.vocab_size for token_id in tokenizer.encode(_TEXT))
