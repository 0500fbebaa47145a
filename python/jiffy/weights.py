"""Weights by name, packed when an architecture asks for them: a tensor is read in pieces, once, in program order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from . import _core
from .errors import FormatError, Unsupported
from .foreign_types import is_packable, natural_format, packable, unpacked_row_bytes

if TYPE_CHECKING:
    import numpy as np

    from .tensor_entry import TensorEntry

_PIECE_BYTES = 16 << 20  # of a file, read at a time
_FILE_PIECE_BYTES = 256 << 20  # read natively, which needs no memory for them, between two reports
_ROTATED = 128  # columns that a rotation mixes
_VOCABULARY = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Packing:
    """How tensors are packed. formats: names of `_core.format_names()`, or None to keep what the file holds
    (`foreign_types` says what that means for types that have no format of ours).

    rotated: linear layers in integers whose inputs are whole blocks of 128 are packed rotated (`rotate`).
    report is called with the number of bytes of the file that have been packed since the last call.
    """

    pool: _core.ThreadPool
    weights: str | None = None
    head: str | None = None
    rotated: bool = field(default=False, kw_only=True)
    report: Callable[[int], None] = lambda n_bytes: None
    arena: _core.Arena = field(default_factory=_core.Arena)

    def format_of(self, entry: TensorEntry) -> str:
        chosen = self.head or self.weights if entry.name in _VOCABULARY else self.weights
        return chosen or natural_format(entry.dtype)

    def rotates(self, entry: TensorEntry) -> bool:
        return self.rotated and self.format_of(entry).startswith("i") and entry.shape[-1] % _ROTATED == 0


class Linear(NamedTuple):
    """What `Trace.linear` takes behind x."""

    weight: _core.Weight
    bias: np.ndarray | None
    rotated: bool = False


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint below a prefix of their names.

    Every method raises FormatError naming the tensor for weights that are NaN or infinite.
    """

    tensors: Mapping[str, TensorEntry]
    packing: Packing
    prefix: str = ""

    def at(self, name: str) -> Weights:
        """The tensors below `name`."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def vector(self, name: str) -> np.ndarray:
        """A one-dimensional tensor as float32 [n]."""
        import numpy as np

        entry = self.tensors[self.prefix + name]
        raw = entry.read_rows(0, entry.n_rows).reshape(-1)
        self.packing.report(raw.nbytes)
        if entry.dtype == "bf16":
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view({"f32": np.float32, "f16": np.float16}[entry.dtype]).astype(np.float32)
        if not np.isfinite(values).all():
            found = f"NaN or infinity at {int(np.flatnonzero(~np.isfinite(values))[0])}"
            raise FormatError(entry.name, expected="finite weights", found=found)
        return values

    def table(self, name: str) -> np.ndarray:
        """A small matrix as float32 [rows, cols], as it is."""
        entry = self.tensors[self.prefix + name]
        flat = replace(entry, shape=(math.prod(entry.shape),))
        return replace(self, tensors={entry.name: flat}, prefix="").vector(entry.name).reshape(entry.shape)

    def matrix(self, name: str) -> _core.Weight:
        """A matrix [out, in], packed."""
        return self._pack([self.tensors[self.prefix + name]])[0]

    def linear(self, name: str) -> Linear:
        """A matrix and its bias, if there is one."""
        entry = self.tensors[f"{self.prefix}{name}.weight"]
        rotated = self.packing.rotates(entry)
        return Linear(self._pack([entry], rotated)[0], self.bias(name), rotated)

    def norm(self, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """The weight of a norm and its bias, if there is one."""
        return self.vector(f"{name}.weight"), self.bias(name)

    def has(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def stacked(self, names: list[str]) -> tuple[_core.Weight, np.ndarray | None]:
        """Several `linear`s of one input as one, the outputs of each behind those of the one before. Raises Unsupported
        for outputs that are no multiple of 16 in number."""
        import numpy as np

        entries = [self.tensors[f"{self.prefix}{name}.weight"] for name in names]
        for entry in entries:
            if entry.n_rows % 16:
                raise Unsupported(entry.name, expected="a multiple of 16 rows", found=str(entry.n_rows))
        biases = [self.bias(name) for name in names]
        given = [np.zeros(e.n_rows, np.float32) if b is None else b for e, b in zip(entries, biases, strict=True)]
        bias = None if all(one is None for one in biases) else np.concatenate(given)
        return self._stack(entries), bias

    def linear_pair(self, first: str, second: str):
        """Two `linear`s of one shape that are used together, interleaved in memory if their formats are equal."""
        entries = [self.tensors[f"{self.prefix}{name}.weight"] for name in (first, second)]
        if len({(self.packing.format_of(entry), entry.shape) for entry in entries}) > 1:
            return self.linear(first), self.linear(second)
        rotated = self.packing.rotates(entries[0])
        pair = zip(self._pack(entries, rotated), (self.bias(first), self.bias(second)), strict=True)
        return tuple(Linear(weight, bias, rotated) for weight, bias in pair)

    def bias(self, name: str) -> np.ndarray | None:
        """The bias of a linear layer or a norm, if there is one."""
        return self.vector(f"{name}.bias") if f"{self.prefix}{name}.bias" in self.tensors else None

    def _pack(self, entries: list[TensorEntry], rotated: bool = False, f32_scales: bool = False) -> list[_core.Weight]:
        rows, cols = entries[0].shape
        shape = (rows, cols, self.packing.format_of(entries[0]), f32_scales, self.packing.arena)
        if len(entries) == 2:
            packed = list(_core.Weight.pair(entries[0].name, entries[1].name, *shape))
        else:
            packed = [_core.Weight(entries[0].name, *shape)]
        for entry, weight in zip(entries, packed, strict=True):
            self._fill(entry, weight, report=not f32_scales, rotated=rotated)
        if not f32_scales and not all(weight.fits_f16_headers for weight in packed):
            return self._pack(entries, rotated, f32_scales=True)
        return packed

    def _stack(self, entries: list[TensorEntry], f32_scales: bool = False) -> _core.Weight:
        rows, shape = sum(entry.n_rows for entry in entries), (self.packing.format_of(entries[0]), f32_scales)
        weight = _core.Weight(entries[0].name, rows, entries[0].shape[1], *shape, self.packing.arena)
        begin = 0
        for entry in entries:
            self._fill(entry, weight, report=not f32_scales, at=begin)
            begin += entry.n_rows
        return weight if f32_scales or weight.fits_f16_headers else self._stack(entries, f32_scales=True)

    def _fill(self, entry: TensorEntry, weight: _core.Weight, report: bool, at: int = 0, rotated: bool = False) -> None:
        """Packs the tensor's rows from the weight's row `at` on."""
        as_it_is = is_packable(entry.dtype) and entry.lies_in_order and not rotated
        piece_bytes = _FILE_PIECE_BYTES if as_it_is else _PIECE_BYTES
        step = max(16, piece_bytes // unpacked_row_bytes(entry) // 16 * 16)
        for begin in range(0, entry.n_rows, step):
            end = min(begin + step, entry.n_rows)
            if as_it_is:
                place = os.fsencode(entry.path), entry.offset + begin * entry.row_bytes
                weight.pack_file(at + begin, end - begin, *place, entry.dtype, self.packing.pool)
            else:
                rows, dtype = packable(entry.read_rows(begin, end), entry.dtype, weight.format)
                if rotated:
                    rows, dtype = rotate(_core.decode_rows(rows, dtype, weight.cols)).view("uint8"), "f32"
                weight.pack_rows(at + begin, rows, dtype, self.packing.pool)
            if report:
                self.packing.report((end - begin) * entry.row_bytes)


def rotate(rows: np.ndarray) -> np.ndarray:
    """Rows [n, cols] of weights that give the same products with inputs that `rotate_quantize` has rotated: each 128
    columns, as [8, 16], are multiplied by the Hadamard matrix of 8, over 8."""
    import numpy as np

    x = rows.reshape(-1, 2, 2, 2, _ROTATED // 8) / 8
    with np.errstate(all="ignore"):  # packing reports what is not finite
        for axis in (1, 2, 3):
            first, second = np.split(x, 2, axis=axis)
            x = np.concatenate([first + second, first - second], axis=axis)
    return x.reshape(rows.shape)
