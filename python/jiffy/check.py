"""Does the engine compute what the model's file says? Part by part against float64, without errors adding up.

Each part of the program (see `Trace.mark`) is computed in float64 from the very values that the engine gave to it:
once with the weights that the engine holds, once with those of the file. The first tells the engine's own error, the
second what the weight format costs. A bad part is one of

- weights that are further from the file than their format's rounding (`weight_bounds`), which for a format that takes
  the file's integers over is not at all;
- a row of its output that is further from float64 on the same weights than twice what rounding activations to bf16 or
  int8, and keys and values as the cache holds them, changes there in float64 itself, plus the rounding of float32 sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .checkpoint import Checkpoint, open_checkpoint
from .errors import ParameterError
from .foreign_types import packable
from .graph import Trace
from .hub import resolve_model
from .models import architecture
from .reference import Reference, read_parameter
from .weights import Packing, Weights

if TYPE_CHECKING:
    from .llm import Model
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
class Report:
    """kl_mean, kl_max: divergence in nats of the engine's next-token distributions from the reference's. changed_top1:
    share of positions whose likeliest token differs. Perplexities are of the checked tokens."""

    n_tokens: int
    parts: tuple[Part, ...]
    kl_mean: float
    kl_max: float
    changed_top1: float
    perplexity: float
    reference_perplexity: float

    @property
    def first_bad(self) -> Part | None:
        return next((part for part in self.parts if part.bad), None)


def check(
    model: Model,
    token_ids: Sequence[int],
    against: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = lambda part: None,
) -> Report:
    """Runs at least two tokens through the model's engine and through the reference.

    against: the file or folder that holds the true weights; None: the model's own. report is called with the name of
    each part before it is computed. Raises ParameterError for too few tokens or another model, ContextOverflow.
    """
    if len(token_ids) < 2:
        raise ParameterError("token_ids", expected="at least two tokens", found=str(len(token_ids)))
    checkpoint = open_checkpoint(model.path if against is None else resolve_model(against))
    trace, truth = model._trace, _trace_of_file(checkpoint, model)
    logits, rows = model._engine.observe(list(token_ids), [node.index for node in trace.marks.values()])
    checker = _Checker(list(token_ids), model.info()["kv_dtype"], dict(zip(trace.marks, rows, strict=True)), {})
    parts = []
    for mine, true in zip(_sections(trace), _sections(truth), strict=True):
        report(mine.name)
        parts.append(checker.part(mine, true))
    expected = _log_softmax(checker.true["logits"])
    return _report(tuple(parts), expected, _log_softmax(logits), token_ids[1:])


@dataclass(frozen=True)
class _FileMatrix:
    """A matrix as its file has it, in the place of a packed one."""

    entry: TensorEntry
    activations: _core.RowFormat = field(default_factory=_core.RowFormat)  # float32, which nothing rounds

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def rows(self) -> int:
        return self.entry.shape[0]

    @property
    def cols(self) -> int:
        return self.entry.shape[1]

    @property
    def dtype(self) -> str:
        """The type that packing sees."""
        return packable(self.entry.read_rows(0, 1), self.entry.dtype, "f32")[1]

    def unpack(self) -> np.ndarray:
        rows, dtype = packable(self.entry.read_rows(0, self.rows), self.entry.dtype, "f32")
        return _core.decode_rows(rows, dtype, self.cols)


class _FileWeights(Weights):
    def _pack(self, entries: list[TensorEntry], f32_scales: bool = False) -> list[_FileMatrix]:
        return [_FileMatrix(entry) for entry in entries]


def _trace_of_file(checkpoint: Checkpoint, model: Model) -> Trace:
    """The model's program over the weights of a file. Raises ParameterError if it is another program."""
    if checkpoint.config.model_type != model.config.model_type:
        found = checkpoint.config.model_type
        raise ParameterError("against", expected=f"a {model.config.model_type}", found=found)
    trace = Trace()
    weights = _FileWeights(checkpoint.tensors, Packing(_core.ThreadPool(1)))
    architecture(checkpoint.config.model_type)(trace, checkpoint.config, weights, model.info()["context"])
    if list(trace.marks) != list(model._trace.marks):
        found = f"{len(trace.marks)} others"
        raise ParameterError("against", expected=f"a model of the parts {', '.join(model._trace.marks)}", found=found)
    return trace


@dataclass(frozen=True)
class _Section:
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


def _sections(trace: Trace) -> Iterator[_Section]:
    names = {node.index: name for name, node in trace.marks.items()}
    begun: list[_core.Instruction] = []
    for at in trace.instructions:
        begun.append(at)
        for value in at.outputs:
            if value in names:
                made = {v for inner in begun for v in inner.outputs}
                read = {v: None for inner in begun for v in inner.inputs if v not in made}
                yield _Section(trace, names[value], [names[v] for v in read], begun)
                begun = []


@dataclass
class _Checker:
    token_ids: list[int]
    kv_dtype: str
    observed: dict[str, np.ndarray]  # what the engine made of the marks
    true: dict[str, np.ndarray]  # what the reference makes of them from the file's weights alone

    def part(self, mine: _Section, truth: _Section) -> Part:
        read, read_true = _Cache(), _Cache()
        given = {name: self.observed[name].astype(np.float64) for name in mine.inputs}
        both = {name: np.stack([self.true[name], given[name]]) for name in mine.inputs}
        in_file = truth.compute(both, self.token_ids, read=read_true)
        self.true[mine.name], in_file = in_file if mine.inputs else (in_file, in_file)
        faults, same = _compare_weights(mine, truth, read, read_true)
        exact = in_file if same else mine.compute(given, self.token_ids, read=read)
        rounded = mine.compute(given, self.token_ids, read=read, rounded=True, kv_dtype=self.kv_dtype)
        got = self.observed[mine.name].astype(np.float64)
        added = _row_norms(exact - next((x for x in given.values() if x.shape == exact.shape), 0.0))
        bound = 2 * _row_norms(rounded - exact) + _FLOAT_ERROR * added + 4 * _EPS * _row_norms(exact)
        error = _row_norms(got - exact)
        return Part(
            name=mine.name,
            drift=_rms(got - self.true[mine.name]) / _rms(self.true[mine.name]),
            loss=_rms(_row_norms(in_file - exact) / added),
            error=_rms(error / added),
            worst=float((error / added).max()),
            bound_share=float((error / bound).max()),
            weight_faults=faults,
        )


class _Cache(dict):
    """Parameters as float32, for as long as a part takes."""

    def __call__(self, parameter: object) -> np.ndarray:
        if id(parameter) not in self:
            self[id(parameter)] = read_parameter(parameter)
        return self[id(parameter)]


def _compare_weights(
    mine: _Section, truth: _Section, read: _Cache, read_true: _Cache
) -> tuple[tuple[WeightFault, ...], bool]:
    """Tensors whose weights are further from the file's than their format allows; whether all weights are equal."""
    faults, same = [], True
    for packed, true in zip(mine.parameters(), truth.parameters(), strict=True):
        if packed is None:
            continue
        got, expected = np.atleast_2d(read(packed)), np.atleast_2d(read_true(true))
        name = getattr(packed, "name", f"a vector of {mine.name}")
        if got.shape != expected.shape:
            raise ParameterError("against", expected=f"{name} {list(got.shape)}", found=str(list(expected.shape)))
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


def _report(parts: tuple[Part, ...], expected: np.ndarray, got: np.ndarray, following: Sequence[int]) -> Report:
    kl = (np.exp(expected) * (expected - got)).sum(axis=1)
    at = np.arange(len(following)), np.asarray(following)
    return Report(
        n_tokens=len(expected),
        parts=parts,
        kl_mean=float(kl.mean()),
        kl_max=float(kl.max()),
        changed_top1=float(np.mean(got.argmax(axis=1) != expected.argmax(axis=1))),
        perplexity=float(np.exp(-got[at].mean())),
        reference_perplexity=float(np.exp(-expected[at].mean())),
    )


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _row_norms(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x * x).sum(axis=-1))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x)))
