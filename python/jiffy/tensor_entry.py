"""Where a tensor lies in a file, and how to read a piece of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .errors import OutOfMemory, ParameterError
from .files import open_file, read_into

# dtype -> (values per block, bytes per block); the quantised ones are ggml's blocks along a row (ggml-common.h).
# NVFP4 isn't among them: files keep a factor for each of its tensors in a tensor of its own.
DTYPES = {
    **{"f32": (1, 4), "f16": (1, 2), "bf16": (1, 2)},
    **{"q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34)},
    **{"q2_k": (256, 84), "q3_k": (256, 110), "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210)},
    **{"iq1_s": (256, 50), "iq1_m": (256, 56), "iq2_xxs": (256, 66), "iq2_xs": (256, 74), "iq2_s": (256, 82)},
    **{"iq3_xxs": (256, 98), "iq3_s": (256, 110), "iq4_nl": (32, 18), "iq4_xs": (256, 136)},
    **{"tq1_0": (256, 54), "tq2_0": (256, 66), "mxfp4": (32, 17)},
}


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file, as raw little-endian bytes.

    name: as its file has it, or as `open_checkpoint` maps it. dtype: a key of DTYPES, or "i64" or "i32".
    shape: row-major. A matrix is [out, in] and has `out` rows; a vector has as many rows, of one value each.
    offset: of the first byte, from the start of the file. n_bytes: of the whole tensor.
    interleaved_heads: 0, or the number of heads whose rows the file holds in the order of interleaved rope (see
    `file_rows`); `read_rows` always speaks in the order of rotate-half rope, as Hugging Face does.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    n_bytes: int
    interleaved_heads: int = 0

    @property
    def n_rows(self) -> int:
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        return self.n_bytes // self.n_rows

    @property
    def lies_in_order(self) -> bool:
        """Whether the file holds the rows as `read_rows` gives them, so that native code may read them there."""
        return not self.interleaved_heads

    def part(self, start: int, stop: int) -> TensorEntry:
        """The tensor of these rows alone, of one that isn't interleaved."""
        if not 0 <= start < stop <= self.n_rows or self.interleaved_heads:
            raise ParameterError(self.name, expected=f"rows within 0..{self.n_rows}", found=f"{start}..{stop}")
        shape, n_bytes = (stop - start, *self.shape[1:]), (stop - start) * self.row_bytes
        return replace(self, shape=shape, offset=self.offset + start * self.row_bytes, n_bytes=n_bytes)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop (stop excluded) as uint8 [stop - start, row_bytes], read from the file by this call.

        Raises ParameterError for rows that don't exist, FormatError if the file has become shorter, OutOfMemory.
        """
        if not 0 <= start < stop <= self.n_rows:
            raise ParameterError(self.name, expected=f"rows within 0..{self.n_rows}", found=f"{start}..{stop}")
        if not self.interleaved_heads:
            return self._read_file_rows(start, stop)
        rows = self.file_rows(start, stop)
        first = int(rows.min())
        return self._read_file_rows(first, int(rows.max()) + 1)[rows - first]

    def file_rows(self, start: int, stop: int) -> np.ndarray:
        """The file's row (int64) for each of the rows start..stop of an interleaved tensor.

        Rotate-half rope turns rows j and j + head_dim/2 of a head together, interleaved rope rows 2j and 2j + 1:
        so row half * head_dim/2 + j of a head lies at 2j + half in the file.
        """
        head_dim = self.n_rows // self.interleaved_heads
        head, row = np.divmod(np.arange(start, stop), head_dim)
        half, j = np.divmod(row, head_dim // 2)
        return head * head_dim + 2 * j + half

    def _read_file_rows(self, start: int, stop: int) -> np.ndarray:
        try:
            rows = np.empty((stop - start, self.row_bytes), np.uint8)
        except MemoryError:
            n_bytes = (stop - start) * self.row_bytes
            raise OutOfMemory(self.name, expected=f"{n_bytes} bytes of memory", found="fewer") from None
        with open_file(self.path) as file:
            offset = self.offset + start * self.row_bytes
            read_into(file, offset, memoryview(rows).cast("B"), f"{self.path.name} {self.name}")
        return rows


@dataclass(frozen=True)
class ArrayEntry(TensorEntry):
    """A tensor whose values, float32, are in memory: what a file holds in a form of its own."""

    values: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    @classmethod
    def of(cls, name: str, values: np.ndarray, path: Path) -> ArrayEntry:
        values = np.ascontiguousarray(values, np.float32)
        return cls(name, "f32", values.shape, path, 0, values.nbytes, values=values)

    @property
    def lies_in_order(self) -> bool:
        return False

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        rows = self.values.reshape(self.n_rows, -1)[start:stop]
        return rows.view(np.uint8)


def tensor_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """The size in bytes of a tensor of positive dimensions; its rows must be a multiple of the dtype's block."""
    block_values, block_bytes = {"i64": (1, 8), "i32": (1, 4)}.get(dtype) or DTYPES[dtype]
    return math.prod(shape) // block_values * block_bytes
