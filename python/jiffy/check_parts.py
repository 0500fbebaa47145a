"""The parts of a program, each compared with float64 given the engine's own input to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .errors import ParameterError
from .foreign_types import packable
from .marian_bin import NEVER
from .reference import Reference, read_parameter
from .weights import Weights, rotate

if TYPE_CHECKING:
    from .graph import Trace
    from .tensor_entry import TensorEntry

_EPS = 2.0**-24  # relative rounding of float32
# A part is a few matmuls behind one another. Sums of thousands of products are off by some ten eps, and softmax turns
# an error of a score, which may be a hundred times its weight's, into a relative one.
_FLOAT_ERROR = 1024 * _EPS
_ROWS = 4096  # of a matrix, compared at a time


@dataclass(frozen=True)
class WeightFault:
    """The weights of one group that differ most from the file's, in units of what their format allows."""

    name: str
    row: int
    columns: tuple[int, int]  # first and last
    error: float
    bound: float


@dataclass(frozen=True)
class Part:
    """Errors of the rows of a part's output. Relative to what the part adds to its input, row by row, except drift.

    drift: root mean square of the engine's output against the reference's own from the first token on, relative to the
    output: all errors so far. loss: what the weight format costs, root mean square over rows. error, worst: the
    engine's own, root mean square and largest. bound_share: the largest share of its bound that a row's error reaches.
    """

    name: str
    drift: float
    loss: float
    error: float
    worst: float
    bound_share: float
    weight_faults: tuple[WeightFault, ...]

    @property
    def bad(self) -> bool:
        return bool(self.weight_faults) or not self.bound_share <= 1


@dataclass(frozen=True)
class _FileMatrix:
    """A matrix as its file has it, in the place of a packed one. entries: several, whose rows are one behind the
    other's."""

    entries: Sequence[TensorEntry]
    activations: _core.RowFormat = field(default_factory=_core.RowFormat)  # float32, which nothing rounds

    @property
    def name(self) -> str:
        return self.entries[0].name

    @property
    def rows(self) -> int:
        return sum(entry.n_rows for entry in self.entries)

    @property
    def cols(self) -> int:
        return self.entries[0].shape[1]

    @property
    def dtype(self) -> str:
        """The type that packing sees."""
        first = self.entries[0]
        return packable(first.read_rows(0, 1), first.dtype, "f32")[1]

    def unpack(self) -> np.ndarray:
        return np.concatenate([self._unpacked(entry) for entry in self.entries])

    def _unpacked(self, entry: TensorEntry) -> np.ndarray:
        rows, dtype = packable(entry.read_rows(0, entry.n_rows), entry.dtype, "f32")
        return _core.decode_rows(rows, dtype, self.cols)


class FileWeights(Weights):
    """Weights as they are in their files, for a trace that nobody runs."""

    def _pack(self, entries: list[TensorEntry], rotated: bool = False, f32_scales: bool = False) -> list[_FileMatrix]:
        return [_FileMatrix([entry]) for entry in entries]

    def _stack(self, entries: list[TensorEntry], f32_scales: bool = False) -> _FileMatrix:
        return _FileMatrix(entries)


@dataclass(frozen=True)
class Section:
    """The instructions of one part, and the marks of earlier parts that they read."""

    trace: Trace
    name: str
    inputs: list[str]
    instructions: list[_core.Instruction]

    def compute(self, inputs: dict[str, np.ndarray], token_ids: list[int], **options: object) -> np.ndarray:
        """The part's output in float64, from its inputs by name."""
        marks = self.trace.marks
        reference = Reference(
            self.trace, token_ids, values={marks[name].index: inputs[name] for name in self.inputs}, **options
        )
        reference.run(self.instructions)
        return reference.values[marks[self.name].index]

    def parameters(self) -> Iterator[object]:
        """Those of the computing instructions in order, so that both traces of a model give pairs."""
        for at in self.instructions:
            yield from (None if p < 0 else self.trace.parameters[p][1] for p in at.parameters)

    def rotated(self) -> set[int]:
        """By id, the parameters that are packed rotated, because their inputs are."""
        inputs = {at.outputs[0] for at in self.instructions if at.op == "rotate_quantize"}
        meet = (at for at in self.instructions if at.op == "matmul" and at.inputs[0] in inputs)
        return {id(self.trace.parameters[at.parameters[0]][1]) for at in meet}


def sections(trace: Trace) -> Iterator[Section]:
    names = {node.index: name for name, node in trace.marks.items()}
    begun: list[_core.Instruction] = []
    for at in trace.instructions:
        begun.append(at)
        for value in at.outputs:
            if value in names:
                made = {v for inner in begun for v in inner.outputs}
                read = {v: None for inner in begun for v in inner.inputs if v not in made}
                yield Section(trace, names[value], [names[v] for v in read], begun)
                begun = []


@dataclass
class Checker:
    """source, true_source: what cross-attention reads, as `Reference` takes it."""

    token_ids: list[int]
    kv_dtype: str
    observed: dict[str, np.ndarray]  # what the engine made of the marks
    true: dict[str, np.ndarray]  # what the reference makes of them from the file's weights alone
    source: np.ndarray | None = None
    true_source: np.ndarray | None = None

    def part(self, mine: Section, truth: Section) -> Part:
        read, read_true = _Cache(), _Cache()
        given = {name: self.observed[name].astype(np.float64) for name in mine.inputs}
        both = {name: np.stack([self.true[name], given[name]]) for name in mine.inputs}
        sources = None if self.source is None else np.stack([self.true_source, self.source])
        in_file = truth.compute(both, self.token_ids, read=read_true, source=sources)
        self.true[mine.name], in_file = in_file if mine.inputs else (in_file, in_file)
        faults, same = _compare_weights(mine, truth, read, read_true)
        own = {"read": read, "source": self.source}
        exact = in_file if same else mine.compute(given, self.token_ids, **own)
        rounded = mine.compute(given, self.token_ids, **own, rounded=True, kv_dtype=self.kv_dtype)
        got, true = self.observed[mine.name].astype(np.float64), _said(self.true[mine.name])
        got, exact, rounded, in_file = (_said(x) for x in (got, exact, rounded, in_file))
        added = _row_norms(exact - next((x for x in given.values() if x.shape == exact.shape), 0.0))
        rounding = _row_norms(rounded - exact)
        rounding = np.maximum(rounding, _rms(rounding / added) * added)  # of a row it may cancel out by chance
        bound = 2 * rounding + _FLOAT_ERROR * added + 4 * _EPS * _row_norms(exact)
        error = _row_norms(got - exact)
        return Part(
            name=mine.name,
            drift=_rms(got - true) / _rms(true),
            loss=_rms(_row_norms(in_file - exact) / added),
            error=_rms(error / added),
            worst=float((error / added).max()),
            bound_share=float((error / bound).max()),
            weight_faults=faults,
        )


def _said(logits: np.ndarray) -> np.ndarray:
    """Without the logits of ids that are never said, beside which all others would be nothing."""
    return np.where(logits > NEVER / 2, logits, 0.0) if (logits <= NEVER / 2).any() else logits


class _Cache(dict):
    """Parameters as float32, for as long as a part takes."""

    def __call__(self, parameter: object) -> np.ndarray:
        if id(parameter) not in self:
            self[id(parameter)] = read_parameter(parameter)
        return self[id(parameter)]


def _compare_weights(
    mine: Section, truth: Section, read: _Cache, read_true: _Cache
) -> tuple[tuple[WeightFault, ...], bool]:
    """Tensors whose weights are further from the file's than their format allows; whether all weights are equal."""
    faults, same, rotated = [], True, mine.rotated()
    for packed, true in zip(mine.parameters(), truth.parameters(), strict=True):
        if packed is None:
            continue
        got, expected = np.atleast_2d(read(packed)), np.atleast_2d(read_true(true))
        name = getattr(packed, "name", f"a vector of {mine.name}")
        if got.shape != expected.shape:
            raise ParameterError("against", expected=f"{name} {list(got.shape)}", found=str(list(expected.shape)))
        if id(packed) in rotated:
            expected = rotate(expected)
        if np.array_equal(got, expected):
            continue
        same = False
        fault = _worst_fault(name, got, expected, packed, true)
        if not fault.error <= fault.bound:
            faults.append(fault)
    return tuple(faults), same


def _worst_fault(name: str, got: np.ndarray, expected: np.ndarray, packed: object, true: object) -> WeightFault:
    group = _columns_at_a_time(packed)
    worst = WeightFault(name, 0, (0, 0), 0.0, 0.0)
    for begin in range(0, len(got), _ROWS):
        values = expected[begin : begin + _ROWS].astype(np.float64)
        error = _by_group(np.abs(got[begin : begin + _ROWS] - values), group).max(axis=-1)
        bound = (
            weight_bounds(values, group, packed.format, true.dtype) if isinstance(packed, _core.Weight) else 0 * error
        )
        over = np.where(error > 0, error / np.maximum(bound, 1e-300), 0)
        row, at = np.unravel_index(np.argmax(over), over.shape)
        if over[row, at] > (worst.error / max(worst.bound, 1e-300) if worst.error else 0):
            columns = (int(at) * group, min((int(at) + 1) * group, got.shape[1]) - 1)
            worst = WeightFault(name, begin + int(row), columns, float(error[row, at]), float(bound[row, at]))
    return worst


def _columns_at_a_time(packed: object) -> int:
    """Those that share a scale, or 32 where there is none."""
    integers = isinstance(packed, _core.Weight) and packed.activations.bits == 8
    return packed.activations.group if integers else 32


def weight_bounds(values: np.ndarray, group: int, weight_format: str, source: str) -> np.ndarray:
    """[rows, groups]: how far a format's weights may be from the values [rows, cols] of a file's tensor in `source`.

    Half a step of the integers; a whole one for symmetric 4 bits, whose scale gives the largest magnitude code 0, so
    that its opposite is cut off at 7. Scale and offset are float16, whose rounding (2^-11, or 2^-25 of a tiny one)
    counts as often as the largest code. Nothing where the format holds the source without loss.
    """
    groups = _by_group(values, group)
    largest = np.abs(groups).max(axis=-1)
    if weight_format in ("f32", _core.natural_format(source)):
        return np.zeros_like(largest)
    if weight_format == "bf16":
        return largest * 2.0**-8
    bits = int(weight_format[1])
    if weight_format.endswith("a"):
        step, steps = np.ptp(groups, axis=-1) / (2**bits - 1), 0.5
    else:
        step, steps = largest / (2 ** (bits - 1) - (bits == 8)), 1 if bits == 4 else 0.5
    return steps * step + 2.0**-10 * (largest + 2**bits * step) + 2.0**-25 * 2**bits


def _by_group(x: np.ndarray, group: int) -> np.ndarray:
    """[rows, groups, group]; the last group is filled up with its row's last value."""
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % group)], mode="edge")
    return padded.reshape(len(x), -1, group)


def _row_norms(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(axis=-1))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x)))
