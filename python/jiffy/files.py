"""Bounded reading of files that nobody vouches for."""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import NoReturn

from .errors import FormatError

MAX_JSON_BYTES = 10_000_000
_MAX_DIGITS = 20  # as many as 2**64 has; Python's own parser takes quadratic time over a million of them
_NO_LIMIT = str(int(1e30))  # which transformers writes for the length of texts where it knows of none
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def open_file(path: Path) -> io.FileIO:
    """Opens a regular file for unbuffered reading; anything else (missing, folder, pipe, device) is a FormatError."""
    try:
        # Asked before opening, because opening a pipe that has no writer never returns.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FormatError(str(path), expected="a readable file", found="something that is no regular file")
        return io.FileIO(path, "r")
    except OSError as error:
        raise FormatError(str(path), expected="a readable file", found=error.strerror or str(error)) from None
    except ValueError:
        raise FormatError(str(path), expected="a readable file", found="a path with a zero byte") from None


def file_size(file: io.FileIO) -> int:
    """The size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_into(file: io.FileIO | io.BytesIO, offset: int, out: memoryview, where: str) -> None:
    """Fills `out` (bytes) from `offset` of the file; FormatError at `where` if the file ends before that."""
    missing = out
    try:
        file.seek(offset)
        while missing and (n := file.readinto(missing)):  # one system call moves at most 2 GB
            missing = missing[n:]
    except OSError as error:
        raise FormatError(where, expected="a readable file", found=error.strerror or str(error)) from None
    if missing:
        raise FormatError(where, expected=f"{len(out)} bytes at {offset}", found=f"{len(out) - len(missing)} bytes")


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file of at most 10 MB; FormatError for all else, see `parse_json`."""
    with open_file(path) as file:
        size = file_size(file)
        if size > MAX_JSON_BYTES:
            raise FormatError(path.name, expected=f"at most {MAX_JSON_BYTES} bytes", found=f"{size} bytes")
        raw = bytearray(size)
        read_into(file, 0, memoryview(raw), path.name)
    return parse_json(raw, path.name)


def parse_json(raw: bytes | bytearray, where: str) -> dict[str, object]:
    """A JSON object, read strictly (RFC 8259, UTF-8): no duplicate keys, no NaN or infinity, integers below 10**20, and
    no half of a surrogate pair, which is no Unicode text.

    Raises FormatError that begins with `where`.
    """

    def refuse(expected: str, found: str) -> NoReturn:
        raise FormatError(where, expected=expected, found=found) from None

    def integer(digits: str) -> int:
        known = len(digits) <= _MAX_DIGITS or digits == _NO_LIMIT
        return int(digits) if known else refuse("numbers within 64 bits", digits)

    def real(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse("finite numbers", digits)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            key, times = Counter(key for key, _ in pairs).most_common(1)[0]
            refuse("every key once", f'"{key}" {times} times')
        return values

    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=real,
            parse_constant=lambda name: refuse("finite numbers", name),
        )
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except FormatError:  # a ValueError too
        raise
    except UnicodeEncodeError as error:
        refuse("Unicode text", f"half of a surrogate pair, U+{ord(error.object[error.start]):04X}")
    except UnicodeDecodeError as error:
        refuse("UTF-8", f"byte 0x{raw[error.start]:02x} at {error.start}")
    except ValueError as error:
        refuse("JSON", str(error))
    except RecursionError:
        refuse("JSON", "nesting too deep to read")
    return value if isinstance(value, dict) else refuse("a JSON object", type(value).__name__)
