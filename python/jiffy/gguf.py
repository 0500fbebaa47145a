"""Reads the head of a GGUF file: metadata and where the tensors lie, never the tensors themselves.

Source: the GGUF specification, versions 2 and 3 (ggml/docs/gguf.md), little endian:

    "GGUF"  u32 version  u64 n_tensors  u64 n_pairs
    n_pairs   x  string key, u32 type, value
    n_tensors x  string name, u32 n_dims, u64 dims[n_dims] (fastest first), u32 type, u64 offset
    padding to general.alignment, then the data that the offsets count from

A string is u64 length and UTF-8 bytes; an array is u32 type, u64 count and its values. Everything that the file claims
is compared with what is left of it before anything is read or allocated for it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .errors import FormatError, Unsupported, shown
from .files import file_size, open_file, read_into
from .tensor_entry import DTYPES, TensorEntry, tensor_bytes

_MAX_HEADER_BYTES = 1 << 27  # the largest known vocabularies (262k tokens with merges) take 16 MB
_FIRST_READ_BYTES = 1 << 16
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 64
_MAX_DIMS = 4
_DEFAULT_ALIGNMENT = 32
_ALIGNMENTS = tuple(1 << n for n in range(3, 17))  # the specification asks for a multiple of 8, ggml for a power of two
_N_TENSORS_AT = 8  # behind magic and version
_MAX_PAIRS = _MAX_TENSORS = 1 << 17  # a Python object takes ten times the 13 or 32 bytes that a claim takes

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_NUMBERS = {  # value type -> numpy dtype
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9

# ggml's tensor types in the order of their numbers; those that DTYPES has, in lower case, are read.
_TENSOR_TYPES = (
    "F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL "
    "IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 IQ4_NL_4_8 "
    "IQ4_NL_8_8 MXFP4 NVFP4 Q1_0"
).split()


@dataclass(frozen=True)
class GGUFFile:
    """metadata: by key; arrays of numbers are numpy arrays, of strings list[str]. tensors: by the file's own names."""

    path: Path
    version: int
    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorEntry]


def read_gguf(path: Path) -> GGUFFile:
    """Reads the header of a GGUF file.

    Raises FormatError for a damaged file, Unsupported for a version, byte order or tensor type that isn't read.
    """
    with open_file(path) as file:
        header = _Header(file, path, file_size(file))
        version, n_tensors, metadata = _read_metadata(header)
        tensors: dict[str, TensorEntry] = {}
        for index in range(n_tensors):
            entry = _read_tensor(header, index)
            if entry.name in tensors:
                raise header.error(entry.name, "every tensor once", "it twice")
            tensors[entry.name] = entry
        alignment = _alignment(header, metadata)
        placed = _place(header, tensors, alignment)
    return GGUFFile(path, version, metadata, placed)


def metadata_bytes(path: Path) -> bytes:
    """A GGUF file without tensors: the same metadata and nothing else. Raises as `read_gguf` does."""
    with open_file(path) as file:
        header = _Header(file, path, file_size(file))
        _read_metadata(header)
        raw = bytearray(header.read_again())
    raw[_N_TENSORS_AT : _N_TENSORS_AT + 8] = bytes(8)
    return bytes(raw)


def parse_metadata(raw: bytes, where: str) -> dict[str, object]:
    """What `metadata_bytes` holds; `where` begins its errors, which are those of `read_gguf`."""
    return _read_metadata(_Header(io.BytesIO(raw), Path(where), len(raw)))[2]


def _read_metadata(header: _Header) -> tuple[int, int, dict[str, object]]:
    """The version, the number of tensors and the metadata."""
    version = _read_version(header)
    n_tensors = header.count("n_tensors", _MAX_TENSORS)
    n_pairs = header.count("n_pairs", _MAX_PAIRS)
    metadata: dict[str, object] = {}
    for index in range(n_pairs):
        key = header.string(f"key {index}", _MAX_KEY_BYTES)
        if key in metadata:
            raise header.error(key, "every key once", "it twice")
        metadata[key] = _read_value(header, key)
    return version, n_tensors, metadata


class _Header:
    """Reads the head of a file in order, in growing pieces, and refuses whatever claims to pass its end."""

    def __init__(self, file: io.FileIO | io.BytesIO, path: Path, file_bytes: int) -> None:
        self.path = path
        self.file_bytes = file_bytes
        self.at = 0
        self._file = file
        self._data = b""
        self._limit = min(self.file_bytes, _MAX_HEADER_BYTES)

    def error(self, field: str, expected: str, found: str) -> FormatError:
        return FormatError(f"{self.path.name} {field}", expected=expected, found=found)

    def read_again(self) -> bytes:
        """All that has been read."""
        return self._data[: self.at]

    def take(self, n_bytes: int, field: str) -> bytes:
        start, self.at = self.at, self.at + n_bytes
        return self._upto(self.at, start, field)[start : self.at]

    def u32(self, field: str) -> int:
        return _U32.unpack(self.take(4, field))[0]

    def u64(self, field: str) -> int:
        return _U64.unpack(self.take(8, field))[0]

    def count(self, field: str, most: int) -> int:
        n = self.u64(field)
        if n > most:
            raise self.error(field, f"at most {most}", str(n))
        return n

    def string(self, field: str, max_bytes: int = _MAX_HEADER_BYTES) -> str:
        n_bytes = self.u64(field)
        if n_bytes > max_bytes:
            raise self.error(field, f"a string of at most {max_bytes} bytes", f"{n_bytes} bytes")
        try:
            return str(self.take(n_bytes, field), "utf-8")
        except UnicodeDecodeError as error:
            raise self._not_utf8(field, error) from None

    def strings(self, field: str, n: int) -> list[str]:
        """n strings; written out because a method call per token costs more than all the rest."""
        values: list[str] = []
        at = self.at
        data = self._upto(at + 8 * n, at, field)
        try:
            for _ in range(n):
                text = at + 8
                if text > len(data):
                    data = self._upto(text, at, f"{field}[{len(values)}]")
                end = text + _U64.unpack_from(data, at)[0]
                if end > len(data):
                    data = self._upto(end, text, f"{field}[{len(values)}]")
                values.append(str(data[text:end], "utf-8"))
                at = end
        except UnicodeDecodeError as error:
            raise self._not_utf8(f"{field}[{len(values)}]", error) from None
        self.at = at
        return values

    def _not_utf8(self, field: str, error: UnicodeDecodeError) -> FormatError:
        return self.error(field, "UTF-8", f"byte 0x{error.object[error.start]:02x} at {error.start}")

    def _upto(self, end: int, start: int, field: str) -> bytes:
        """What is read of the file so far, which reaches to `end` at least; `start` is where the field began."""
        if end > self._limit:
            raise self.error(field, f"at most {self._limit - start} bytes (the rest of the header)", str(end - start))
        have = len(self._data)
        if end > have:
            piece = bytearray(min(max(end, 2 * have, _FIRST_READ_BYTES), self._limit) - have)
            read_into(self._file, have, memoryview(piece), f"{self.path.name} {field}")
            self._data += piece
        return self._data


def _read_version(header: _Header) -> int:
    magic = header.take(4, "magic")
    if magic != b"GGUF":
        raise header.error("magic", 'a GGUF file, which begins with "GGUF"', shown(magic.decode("latin-1")))
    version = header.u32("version")
    if version not in (2, 3):
        big = int.from_bytes(version.to_bytes(4, "little"), "big")
        found = f"big-endian version {big}" if big in (2, 3) else str(version)
        raise Unsupported(f"{header.path.name} version", expected="2 or 3, little-endian", found=found)
    return version


def _read_value(header: _Header, key: str) -> object:
    kind = header.u32(key)
    if kind == _STRING:
        return header.string(key)
    if kind == _ARRAY:
        return _read_array(header, key)
    return _read_numbers(header, key, kind, 1)[0].item()


def _read_array(header: _Header, key: str) -> list[str] | np.ndarray:
    kind = header.u32(key)
    n = header.count(key, _MAX_HEADER_BYTES)
    if kind == _ARRAY:
        raise header.error(key, "an array of numbers or strings", "an array of arrays")
    if kind == _STRING:
        return header.strings(key, n)
    return _read_numbers(header, key, kind, n)


def _read_numbers(header: _Header, key: str, kind: int, n: int) -> np.ndarray:
    dtype = _NUMBERS.get(kind)
    if dtype is None:
        raise header.error(key, "a value type from 0 to 12", str(kind))
    raw = header.take(n * dtype.itemsize, key)
    if kind == _BOOL and raw.strip(b"\0\1"):
        raise header.error(key, "booleans of 0 or 1", str(max(raw)))
    return np.frombuffer(raw, dtype)


def _read_tensor(header: _Header, index: int) -> TensorEntry:
    """One row of the tensor table; its offset still counts from the start of the data."""
    name = header.string(f"tensor {index}", _MAX_NAME_BYTES)
    if not name:
        raise header.error(f"tensor {index}", "a name", "none")
    n_dims = header.u32(name)
    if not 1 <= n_dims <= _MAX_DIMS:
        raise header.error(name, f"1 to {_MAX_DIMS} dimensions", str(n_dims))
    dims = [header.u64(name) for _ in range(n_dims)]
    if 0 in dims:
        raise header.error(name, "positive dimensions", str(dims))
    dtype = _tensor_dtype(header, name, header.u32(name))
    block_values = DTYPES[dtype][0]
    if dims[0] % block_values:
        raise header.error(name, f"rows of a multiple of {block_values} values ({dtype})", str(dims[0]))
    shape = tuple(reversed(dims))
    n_bytes = tensor_bytes(dtype, shape)
    if n_bytes > header.file_bytes:
        raise header.error(name, f"at most {header.file_bytes} bytes (the file)", f"{list(shape)} of {dtype}")
    return TensorEntry(name, dtype, shape, header.path, header.u64(name), n_bytes)


def _tensor_dtype(header: _Header, name: str, number: int) -> str:
    if number >= len(_TENSOR_TYPES):
        raise header.error(name, f"a tensor type from 0 to {len(_TENSOR_TYPES) - 1}", str(number))
    type_name = _TENSOR_TYPES[number]
    if type_name.lower() not in DTYPES:
        readable = ", ".join(dtype.upper() for dtype in DTYPES)
        raise Unsupported(f"{header.path.name} {name}", expected=f"one of {readable}", found=type_name)
    return type_name.lower()


def _alignment(header: _Header, metadata: Mapping[str, object]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment not in _ALIGNMENTS:
        expected = f"a power of two from {_ALIGNMENTS[0]} to {_ALIGNMENTS[-1]}"
        raise header.error("general.alignment", expected, shown(alignment))
    return alignment


def _place(header: _Header, tensors: Mapping[str, TensorEntry], alignment: int) -> dict[str, TensorEntry]:
    """The tensors with offsets from the start of the file: each aligned, within the file, apart from the others."""
    data = -(-header.at // alignment) * alignment
    data_bytes = max(header.file_bytes - data, 0)
    end, before = 0, ""
    placed = {}
    for entry in sorted(tensors.values(), key=lambda entry: entry.offset):
        if entry.offset % alignment:
            raise header.error(entry.name, f"an offset aligned to {alignment}", str(entry.offset))
        if entry.offset < end:
            raise header.error(entry.name, f"an offset of at least {end}, the end of {before}", str(entry.offset))
        end, before = entry.offset + entry.n_bytes, entry.name
        if end > data_bytes:
            raise header.error(entry.name, f"an end within the {data_bytes} bytes of data", str(end))
        placed[entry.name] = replace(entry, offset=data + entry.offset)
    return placed
