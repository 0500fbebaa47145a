"""The small files of a Hugging Face model by name, wherever they lie: in a folder, or within a packed file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .errors import FormatError
from .files import MAX_JSON_BYTES, file_size, open_file, parse_json, read_into

# All that a tokenizer is made of; only the first must be there.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
)
MAX_TOKENIZER_BYTES = 1 << 27  # the largest known (262k tokens) has 33 MB


class NamedFiles:
    """Files in memory. place: where they are from. Each method raises FormatError that begins with the name."""

    def __init__(self, files: Mapping[str, bytes], place: str) -> None:
        self._files = files
        self.place = place

    def names(self) -> list[str]:
        """Of all files, in order."""
        return sorted(self._files)

    def has(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, max_bytes: int) -> bytes:
        """Raises FormatError for a file that isn't there or is larger."""
        if name not in self._files:
            raise FormatError(name, expected="a readable file", found="no such file")
        _check_size(name, len(self._files[name]), max_bytes)
        return self._files[name]

    def read_json(self, name: str) -> dict[str, object]:
        """The object in a JSON file of at most 10 MB."""
        return parse_json(self.read(name, MAX_JSON_BYTES), name)

    def optional_json(self, name: str) -> dict[str, object]:
        """The same, empty where there is no such file."""
        return self.read_json(name) if self.has(name) else {}


class FilesOfFolder(NamedFiles):
    """Files on disk, read when they are asked for; one that isn't there is named by its path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.place = str(folder)

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except OSError as error:
            raise FormatError(self.place, expected="a readable folder", found=error.strerror or str(error)) from None

    def has(self, name: str) -> bool:
        return os.path.exists(self._folder / name)

    def read(self, name: str, max_bytes: int) -> bytes:
        with open_file(self._folder / name) as file:
            size = file_size(file)
            _check_size(name, size, max_bytes)
            raw = bytearray(size)
            read_into(file, 0, memoryview(raw), name)
        return bytes(raw)


def _check_size(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FormatError(name, expected=f"at most {max_bytes} bytes", found=f"{size} bytes")
