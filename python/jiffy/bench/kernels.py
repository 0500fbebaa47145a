"""Times each kernel of kernels.h and quotes it as a share of the read bandwidth and the arithmetic peak beside it.

A result is compared with another instruction set's first, and a wrong one is never timed. Repetition is native: what is
timed is kernels over a thread pool, without Python between them. Matrices and KV caches are read from memory, as in a
model: there are many of them, more than any cache holds. Rows of activations stay in cache, as in a model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .. import _core
from ..arguments import integer, one_of
from ..errors import Error, ParameterError
from ..loading import KV_DTYPES
from ..ops import op_call, quantize
from .limits import PATTERNS, Probe

WIDTH = 2048  # of rows, and both sides of matrices
VOCAB = 49152
TABLE_ROWS = 8192  # of an embedding table
N_HEADS, N_KV_HEADS, HEAD_DIM = 32, 8, 64
CONTEXT = 1024  # positions that each token attends to
PREFILL = "attention prefill"  # cases of a kernel of kernels.h that has others, too: that one's name, then what differs
LIMITS = ("read_probe", "peak_probe")  # lines of kernels.h that are no cases: they are what cases are shares of

_ROUNDS = 5
_PASS_SECONDS = 0.05  # of one round over all the memory at most, unless a single call takes longer
_LEAST_SECONDS = 0.02  # of one round: what a clock and a scheduler are good for
_CHECKED_ROWS = 16  # the scalar set takes a second for more


@dataclass(frozen=True)
class Prepared:
    """Equal pieces of work on different memory. outputs: what the first one made. n_bytes, operations: of each."""

    work: list[_core.Work]
    outputs: Callable[[], list[np.ndarray]]
    n_bytes: int
    operations: int = 0
    arithmetic: str = ""  # int8, bf16 or f32, whose peak the operations are a share of
    tolerance: float = 0.0  # how far instruction sets may differ
    before: tuple[_core.Work, ...] = ()  # what `work` reads, made by the same instruction set
    stored: _core.QuantizedRows | None = None  # an output that instruction sets store each in their way


@dataclass(frozen=True)
class Case:
    """A kernel. prepare(format, n_bytes) sets up memory of about n_bytes and returns rows -> Prepared."""

    formats: tuple[str, ...]
    prepare: Callable[[str, int], Callable[[int], Prepared]]
    usual: tuple[str, ...] = ()  # the formats that are timed where none is asked for; (): all

    def chosen(self, asked: list[str]) -> list[str]:
        return [f for f in self.formats if f in (asked or self.usual or self.formats)]


@dataclass(frozen=True)
class Figure:
    """seconds: of one call, the median of 5 rounds. bandwidth, peak: the limits beside it, bytes/s and operations/s."""

    kernel: str
    format: str
    isa: str
    rows: int
    seconds: float
    n_bytes: int
    operations: int
    bandwidth: float
    peak: float

    @property
    def bandwidth_share(self) -> float:
        """Above 1: from cache."""
        return self.n_bytes / self.seconds / self.bandwidth

    @property
    def peak_share(self) -> float | None:
        return self.operations / self.seconds / self.peak if self.operations and self.peak else None


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, np.float32)


def _row_case(op: str, n_inputs: int = 1, n_parameters: int = 0, **attributes) -> Callable:
    """rows of floats -> rows of floats, one after the other."""

    def prepare(_: str, n_bytes: int) -> Callable[[int], Prepared]:
        parameters = [_normal(WIDTH) for _ in range(n_parameters)]

        def prepared(rows: int) -> Prepared:
            inputs, y = [_normal(rows, WIDTH) for _ in range(n_inputs)], np.empty((rows, WIDTH), np.float32)
            call = op_call(op, inputs, [y], parameters, **attributes)
            return Prepared([call], lambda: [y], (n_inputs + 1) * y.nbytes)

        return prepared

    return prepare


def _gelu(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    return _row_case("gelu", tanh=fmt == "tanh")(fmt, n_bytes)


def _activation(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    return _row_case("activation", function=getattr(_core.Function, fmt))(fmt, n_bytes)


def _ssru(_: str, n_bytes: int) -> Callable[[int], Prepared]:
    """One token of each of `rows` sequences, with one before it."""

    def prepared(rows: int) -> Prepared:
        inputs, y = [_normal(rows, WIDTH) for _ in range(2)], np.empty((rows, WIDTH), np.float32)
        kv = _core.RaggedKv("f32", 1, 2, [2] * rows, WIDTH)
        call = op_call("ssru", inputs, [y], kv=kv, counts=[1] * rows)
        return Prepared([call], lambda: [y], 5 * y.nbytes)

    return prepared


def _pool(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    """One sequence."""

    def prepared(rows: int) -> Prepared:
        x, y = _normal(rows, WIDTH), np.empty((1, WIDTH), np.float32)
        batch = {"kv": _core.RaggedKv("f32", 1, 2, [rows]), "counts": [rows]}
        call = op_call("pool", [x], [y], pooling=getattr(_core.Pooling, fmt), **batch)
        return Prepared([call], lambda: [y], x.nbytes + y.nbytes)

    return prepared


def _quantizing_case(op: str, **attributes) -> Callable:
    def prepare(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
        weight = quantize(_normal(16, WIDTH), fmt)

        def prepared(rows: int) -> Prepared:
            x, q = _normal(rows, WIDTH), _core.QuantizedRows(rows, weight)
            call = op_call(op, [x], [q], [_normal(WIDTH)] if attributes else [], **attributes)
            return Prepared([call], lambda: [], x.nbytes + q.n_bytes, stored=q)

        return prepared

    return prepare


def _rope(_: str, n_bytes: int) -> Callable[[int], Prepared]:
    def prepared(rows: int) -> Prepared:
        x, y = _normal(rows, WIDTH), np.empty((rows, WIDTH), np.float32)
        tables = [_normal(CONTEXT + rows, HEAD_DIM // 2) for _ in range(2)]
        positions = list(range(CONTEXT, CONTEXT + rows))
        call = op_call("rope", [x], [y], tables, positions=positions, n_heads=N_HEADS, head_dim=HEAD_DIM)
        return Prepared([call], lambda: [y], 2 * y.nbytes + rows * HEAD_DIM * 4)

    return prepared


def _matmul(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    w = _normal(WIDTH, WIDTH)
    weights = [quantize(w, fmt)]
    while len(weights) * weights[0].n_bytes < n_bytes:
        weights.append(quantize(w, fmt))
    # An instruction for bf16 rounds each of WIDTH sums of at most |x| |w|, about WIDTH, in its own way.
    tolerance = 2.0**-23 * WIDTH * WIDTH if fmt == "bf16" else 0.0

    def prepared(rows: int) -> Prepared:
        x, y = _normal(rows, WIDTH), np.empty((rows, WIDTH), np.float32)
        inputs, before = [x], ()
        if weights[0].activations != _core.RowFormat():
            inputs = [_core.QuantizedRows(rows, weights[0])]
            before = (op_call("quantize", [x], inputs),)
        work = [op_call("matmul", inputs, [y], [weight, None]) for weight in weights]
        operations, kind = 2 * rows * WIDTH * WIDTH, fmt if fmt in ("f32", "bf16") else "int8"
        return Prepared(work, lambda: [y], weights[0].n_bytes, operations, kind, tolerance, before)

    return prepared


def _embedding(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    table = quantize(_normal(TABLE_ROWS, WIDTH), fmt)

    def prepared(rows: int) -> Prepared:
        y = np.empty((rows, WIDTH), np.float32)
        ids = np.random.default_rng(0).integers(0, TABLE_ROWS, (64, rows)).tolist()
        work = [op_call("embedding", [], [y], [table], token_ids=some) for some in ids]
        return Prepared(work, lambda: [y], y.nbytes + rows * table.n_bytes // TABLE_ROWS)

    return prepared


def _kv_write(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    shape = {"n_heads": N_KV_HEADS, "n_kv_heads": N_KV_HEADS, "head_dim": HEAD_DIM}

    def prepared(rows: int) -> Prepared:
        kv = _core.RaggedKv(fmt, N_KV_HEADS, HEAD_DIM, [rows])
        k, v = (_normal(rows, N_KV_HEADS * HEAD_DIM) for _ in range(2))
        call = op_call("kv_write", [k, v], [], kv=kv, counts=[rows], **shape)
        written = kv.n_bytes * rows // (-(-rows // 32) * 32)  # of blocks of 32 positions
        return Prepared([call], lambda: [kv.bytes()], k.nbytes + v.nbytes + written)

    return prepared


def _attention(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
    """Decoding: one token of each of `rows` sequences, which attends to CONTEXT positions."""
    shape = {"n_heads": N_HEADS, "n_kv_heads": N_KV_HEADS, "head_dim": HEAD_DIM}
    sequence = _normal(CONTEXT, N_KV_HEADS * HEAD_DIM)

    def prepared(rows: int) -> Prepared:
        q, y = _normal(rows, WIDTH), np.empty((rows, WIDTH), np.float32)
        k, lengths = np.tile(sequence, (rows, 1)), [CONTEXT] * rows
        caches: list[_core.RaggedKv] = []
        while not caches or len(caches) * caches[0].n_bytes < n_bytes:
            caches.append(_core.RaggedKv(fmt, N_KV_HEADS, HEAD_DIM, lengths))
        writes = [op_call("kv_write", [k, k], [], kv=kv, counts=lengths, **shape) for kv in caches]
        _core.run_all(writes, _core.ThreadPool(_core.cpu_info().default_threads))
        options = {"counts": [1] * rows, "scale": HEAD_DIM**-0.5, **shape}
        work = [op_call("attention", [q], [y], kv=kv, **options) for kv in caches]
        return Prepared(work, lambda: [y], caches[0].n_bytes, 4 * rows * CONTEXT * WIDTH, fmt)

    return prepared


def _prefill(head_dim: int) -> Callable:
    """Prefill: `rows` tokens of one causal prompt. Its operations are those of the positions that a token sees."""

    def prepare(fmt: str, n_bytes: int) -> Callable[[int], Prepared]:
        shape = {"n_heads": WIDTH // head_dim, "n_kv_heads": WIDTH // head_dim // 4, "head_dim": head_dim}

        def prepared(rows: int) -> Prepared:
            q, y, k = _normal(rows, WIDTH), np.empty((rows, WIDTH), np.float32), _normal(rows, WIDTH // 4)
            kv = _core.RaggedKv(fmt, shape["n_kv_heads"], head_dim, [rows])
            _core.run_all([op_call("kv_write", [k, k], [], kv=kv, counts=[rows], **shape)], _core.ThreadPool(1))
            work = op_call("attention", [q], [y], kv=kv, counts=[rows], scale=head_dim**-0.5, **shape)
            return Prepared([work], lambda: [y], kv.n_bytes, 4 * WIDTH * rows * (rows + 1) // 2, fmt)

        return prepared

    return prepare


def _argmax(_: str, n_bytes: int) -> Callable[[int], Prepared]:
    def prepared(rows: int) -> Prepared:
        x, indices = _normal(rows, VOCAB), np.empty(rows, np.int64)
        return Prepared([_core.argmax_rows(x, indices)], lambda: [indices], x.nbytes)

    return prepared


def _softmax(_: str, n_bytes: int) -> Callable[[int], Prepared]:
    def prepared(rows: int) -> Prepared:
        x, y, sums = _normal(rows, VOCAB), np.empty((rows, VOCAB), np.float32), np.empty(rows, np.float64)
        work = _core.softmax_rows(x, x.max(axis=1), y, sums)
        return Prepared([work], lambda: [y, sums], 2 * x.nbytes)

    return prepared


def _logit_blocks(_: str, n_bytes: int) -> Callable[[int], Prepared]:
    def prepared(rows: int) -> Prepared:
        x, blocks = _normal(rows, VOCAB), np.empty((rows, -(-VOCAB // _core.LOGIT_BLOCK), 2), np.float32)
        return Prepared([_core.logit_block_rows(x, blocks)], lambda: [blocks], x.nbytes)

    return prepared


_FORMATS = tuple(_core.format_names())
_STORED = ("i4", "i4g64", "i4g128", "bf16")  # one of each way to store rows of activations

CASES = {
    "rms_norm": Case(("f32",), _row_case("rms_norm", n_parameters=1, eps=1e-5)),
    "layer_norm": Case(("f32",), _row_case("layer_norm", n_parameters=2, eps=1e-5)),
    "quantize": Case(_STORED, _quantizing_case("quantize"), ("i4",)),
    "rotate_quantize": Case(("i4", "i4g64", "i4g128"), _quantizing_case("rotate_quantize"), ("i4",)),
    "rms_norm_quantize": Case(_STORED, _quantizing_case("rms_norm_quantize", eps=1e-5), ("i4",)),
    "matmul": Case(_FORMATS, _matmul, ("i4", "i8")),
    "embedding": Case(_FORMATS, _embedding, ("i4",)),
    "rope": Case(("f32",), _rope),
    "add": Case(("f32",), _row_case("add", n_inputs=2)),
    "mul": Case(("f32",), _row_case("mul", n_inputs=2)),
    "activation": Case(("relu", "tanh", "silu"), _activation, ("tanh",)),
    "pool": Case(("mean", "max", "first", "last"), _pool, ("mean",)),
    "ssru": Case(("f32",), _ssru),
    "silu_mul": Case(("f32",), _row_case("silu_mul", n_inputs=2)),
    "gelu": Case(("f32", "tanh"), _gelu),
    "kv_write": Case(tuple(KV_DTYPES), _kv_write, ("f32", "int8")),
    "attention": Case(tuple(KV_DTYPES), _attention),
    PREFILL: Case(tuple(KV_DTYPES), _prefill(64)),
    f"{PREFILL} 128": Case(tuple(KV_DTYPES), _prefill(128)),
    "argmax": Case(("f32",), _argmax),
    "logit_blocks": Case(("f32",), _logit_blocks),
    "softmax": Case(("f32",), _softmax),
}


@dataclass(frozen=True)
class Selection:
    """What is timed. Empty lists: every kernel, its usual formats, the fastest instruction set.

    n_bytes: of the probe, and at least of the matrices or KV caches behind each figure. Raises ParameterError.
    """

    kernels: list[str]
    formats: list[str]
    isas: list[str]
    rows: list[int]
    n_threads: int | None = None
    n_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name in self.kernels:
            one_of("kernel", name, CASES)
        known = {f: None for case in CASES.values() for f in case.formats}
        for name in self.formats:
            one_of("format", name, known)
        for name in self.isas:
            one_of("isa", name, _core.isas())
        for n in self.rows:
            integer("rows", n, 1, 4096)
        if self.n_threads is not None:
            integer("threads", self.n_threads, 1, 1024)
        if not self.pairs():
            raise ParameterError("format", expected="one that a chosen kernel has", found=", ".join(self.formats))

    def pairs(self) -> list[tuple[str, str]]:
        """(kernel, format), in the order of kernels.h."""
        return [(k, f) for k, case in CASES.items() if k in (self.kernels or CASES) for f in case.chosen(self.formats)]

    def __len__(self) -> int:
        return len(self.pairs()) * max(1, len(self.isas)) * len(self.rows)


def measure(selection: Selection) -> Iterator[Figure]:
    """Checks and times what is selected. Raises Error for a wrong result, OutOfMemory."""
    pool = _core.ThreadPool(selection.n_threads or _core.cpu_info().default_threads)
    probe = Probe(pool, selection.n_bytes)
    streams = max(PATTERNS, key=lambda n: probe.bandwidth(n, rounds=2))
    for kernel, fmt in selection.pairs():
        prepare = CASES[kernel].prepare(fmt, selection.n_bytes)
        small = CASES[kernel].prepare(fmt, 0)
        for rows in selection.rows:
            prepared = prepare(rows)
            for isa in selection.isas or _core.isas()[-1:]:
                check(small(min(rows, _CHECKED_ROWS)), pool, isa, f"{kernel} ({fmt}) on {isa}")
                yield _figure(prepared, probe, streams, kernel=kernel, format=fmt, isa=isa, rows=rows)


def check(prepared: Prepared, pool: _core.ThreadPool, isa: str, what: str) -> None:
    """Raises Error unless scalar code (for that: the fastest set) gives the same numbers."""
    results = []
    for other in (_core.isas()[-1] if isa == "scalar" else "scalar", isa):
        _core.run_all([*prepared.before, prepared.work[0]], pool, other)
        results.append([output.copy() for output in prepared.outputs()])
        if prepared.stored is not None:
            results[-1].append(prepared.stored.values(other))
        for output in prepared.outputs():
            output.fill(0)
    for a, b in zip(*results, strict=True):
        if not np.allclose(a, b, rtol=0, atol=prepared.tolerance):
            raise Error(what, expected="the numbers of another instruction set", found="others")


def _figure(prepared: Prepared, probe: Probe, streams: int, *, isa: str, **names) -> Figure:
    def limits() -> tuple[float, float]:
        kinds = [prepared.arithmetic, "f32"] if prepared.arithmetic else []  # not every set has one for bf16
        peak = next(filter(None, (probe.peak(kind, isa, rounds=3, seconds=0.01) for kind in kinds)), 0.0)
        return probe.bandwidth(streams, rounds=3), peak

    before = limits()
    if prepared.before:
        _core.run_all(list(prepared.before), probe.pool, isa)
    seconds = _seconds(prepared.work, probe.pool, isa)
    bandwidth, peak = (statistics.mean(pair) for pair in zip(before, limits(), strict=True))
    counts = prepared.n_bytes, prepared.operations
    return Figure(
        isa=isa, seconds=seconds, n_bytes=counts[0], operations=counts[1], bandwidth=bandwidth, peak=peak, **names
    )


def _seconds(work: list[_core.Work], pool: _core.ThreadPool, isa: str) -> float:
    """Of one of `work`: the median of rounds over as many of them as a round has time for."""
    once = max(_core.run_all(work[:1], pool, isa) for _ in range(2))
    some = work[: max(1, int(_PASS_SECONDS / once))]
    repeats = max(1, int(_LEAST_SECONDS / (once * len(some))))
    _core.run_all(some, pool, isa)
    rounds = [_core.run_all(some, pool, isa, repeats) for _ in range(_ROUNDS)]
    return statistics.median(rounds) / (len(some) * repeats)
