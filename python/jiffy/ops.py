"""The kernels on numpy arrays, one call each: for experiments, and to follow a model step by step.

Arrays are [rows, width] with at least one row, float32 or float16 (which float32 holds exactly), in any memory order.
Everything else is refused, float64 too: it would lose digits unseen. A result is a new float32 array.

Every function takes isa: one of `jiffy.isas()`, None for the fastest; and n_threads: None for the physical cores that
this process may use; its threads live as long as the call. Every function raises ParameterError naming the argument
that has the wrong type, shape or range, and OutOfMemory. NaN and infinities are computed with like other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import _core
from .arguments import integer, one_of
from .errors import ParameterError, shown
from .loading import KV_DTYPES
from .rope import RopeScaling

__all__ = ["attention", "gelu", "layer_norm", "matmul", "quantize", "rms_norm", "rope", "silu_mul"]

_MAX_INT = 2**31 - 1
_MAX_F32 = 3.4028234e38


def quantize(w: np.ndarray, format: str, *, isa: str | None = None, n_threads: int | None = None) -> _core.Weight:
    """Packs finite weights w [out, in] in a format of `jiffy.formats()`; `.unpack()` gives them back as float32.

    Headers are float32 where float16 can't hold the scales. The packed bytes don't depend on isa or n_threads.
    """
    w = _rows("w", w)
    one_of("format", format, _core.format_names())
    if not np.isfinite(w).all():
        raise ParameterError("w", expected="finite weights", found="NaN or infinity")
    one_of("isa", isa, [None, *_core.isas()])
    pool = _pool(n_threads)
    for f32_scales in (False, True):
        weight = _core.Weight("w", *w.shape, format, f32_scales)
        weight.pack_rows(0, w.view(np.uint8), "f32", pool)
        if weight.fits_f16_headers:
            break
    return weight


def matmul(
    x: np.ndarray,
    weight: _core.Weight,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    isa: str | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """x weight^T (+ bias) (+ residual): x [rows, in], weight [out, in] -> [rows, out]; bias [out], residual like y.

    As in a model, integer formats round x to int8 in their own groups first, and "bf16" rounds it to bf16.
    """
    if not isinstance(weight, _core.Weight):
        raise ParameterError("weight", expected="a Weight, such as quantize() returns", found=shown(weight))
    x = _rows("x", x, weight.cols)
    y = np.empty((len(x), weight.rows), np.float32)
    work, inputs = [], [x]
    if weight.activations != _core.RowFormat():
        inputs = [_core.QuantizedRows(len(x), weight)]
        work.append(op_call("quantize", [x], inputs))
    if residual is not None:
        inputs.append(_rows("residual", residual, weight.rows, len(x)))
    if bias is not None:
        bias = _vector("bias", bias, weight.rows)
    work.append(op_call("matmul", inputs, [y], [weight, bias]))
    _run(work, isa, n_threads)
    return y


def rms_norm(
    x: np.ndarray, weight: np.ndarray, eps: float = 1e-5, *, isa: str | None = None, n_threads: int | None = None
) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, row by row (Zhang and Sennrich 2019); weight [width], eps of at least 0."""
    x = _rows("x", x)
    weight = _vector("weight", weight, x.shape[1])
    return _same_shape("rms_norm", [x], [weight], isa, n_threads, eps=_number("eps", eps))


def layer_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
    *,
    isa: str | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) * weight (+ bias), row by row (Ba et al. 2016); weight, bias [width]."""
    x = _rows("x", x)
    weight = _vector("weight", weight, x.shape[1])
    if bias is not None:
        bias = _vector("bias", bias, x.shape[1])
    return _same_shape("layer_norm", [x], [weight, bias], isa, n_threads, eps=_number("eps", eps))


def rope(
    x: np.ndarray,
    positions: np.ndarray,
    cosines: np.ndarray | None = None,
    sines: np.ndarray | None = None,
    *,
    n_heads: int,
    theta: float | None = None,
    isa: str | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """Rotates the pairs (i, i + head_dim / 2) of each head by the angle of its row's position (Su et al. 2021).

    x [rows, n_heads * head_dim], positions integers [rows]. Either cosines and sines [context, head_dim / 2], with a
    line for every position; or theta, for angles position * theta^(-2 i / head_dim), computed in double.
    """
    x = _rows("x", x)
    head_dim = _head_dim(x, n_heads)
    positions = _integers("positions", positions, len(x), 0, _MAX_INT)
    if (theta is None) == (cosines is None) or (cosines is None) != (sines is None):
        raise ParameterError("theta", expected="either theta or cosines and sines", found="both or neither")
    if theta is None:
        cosines, sines = _rows("cosines", cosines, head_dim // 2), _rows("sines", sines, head_dim // 2, len(cosines))
        if positions.max() >= len(cosines):
            expected = f"below the tables' {len(cosines)} lines"
            raise ParameterError("positions", expected=expected, found=str(positions.max()))
    else:
        frequencies = RopeScaling().frequencies(_number("theta", theta, above=0.0), head_dim, context=0)
        angles = positions[:, None] * frequencies  # a line for each row, however far its position is
        cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        positions = np.arange(len(x))
    return _same_shape(
        "rope", [x], [cosines, sines], isa, n_threads, positions=positions.tolist(), n_heads=n_heads, head_dim=head_dim
    )


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    causal: bool = True,
    window: int = 0,
    scale: float | None = None,
    lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
    kv_dtype: str = "f32",
    isa: str | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
    """softmax(scale q k^T) v of sequences whose rows lie one behind the other; nothing is padded.

    k, v [n_tokens, n_kv_heads * head_dim], q [n_queries, n_heads * head_dim] -> like q; n_kv_heads divides n_heads
    (None: equal). lengths: tokens of each sequence (None: one sequence). query_lengths: how many of the last tokens of
    each sequence have a query (None: all of them). causal: a token sees itself and those before it; False: all of its
    sequence. window: of those, only the nearest that are less than `window` away; 0 for no such limit. scale: None for
    head_dim ** -0.5. kv_dtype: how keys and values are kept, "f32", "bf16" or "int8", as in a model.
    """
    q = _rows("q", q)
    head_dim, n_kv_heads = _head_dim(q, n_heads), n_heads if n_kv_heads is None else n_kv_heads
    integer("n_kv_heads", n_kv_heads, 1, n_heads)
    if n_heads % n_kv_heads:
        raise ParameterError("n_kv_heads", expected=f"a divisor of {n_heads}", found=str(n_kv_heads))
    k = _rows("k", k, n_kv_heads * head_dim)
    v = _rows("v", v, n_kv_heads * head_dim, len(k))
    lengths, queries = _ragged(lengths, query_lengths, len(k), len(q))
    one_of("kv_dtype", kv_dtype, KV_DTYPES)
    integer("window", window, 0, _MAX_INT)
    if not isinstance(causal, bool):
        raise ParameterError("causal", expected="True or False", found=shown(causal))
    scale = head_dim**-0.5 if scale is None else _number("scale", scale, above=0.0)
    kv = _core.RaggedKv(kv_dtype, n_kv_heads, head_dim, lengths)
    shape = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim, "kv": kv}
    y = np.empty_like(q)
    sight = {"causal": causal, "window": window, "scale": scale}
    work = [
        op_call("kv_write", [k, v], [], counts=lengths, **shape),
        op_call("attention", [q], [y], counts=queries, **shape, **sight),
    ]
    _run(work, isa, n_threads)
    return y


def silu_mul(gate: np.ndarray, up: np.ndarray, *, isa: str | None = None, n_threads: int | None = None) -> np.ndarray:
    """gate / (1 + exp(-gate)) * up, element by element: the middle of SwiGLU (Shazeer 2020)."""
    gate = _rows("gate", gate)
    return _same_shape("silu_mul", [gate, _rows("up", up, gate.shape[1], len(gate))], [], isa, n_threads)


def gelu(
    x: np.ndarray, approximate: str = "none", *, isa: str | None = None, n_threads: int | None = None
) -> np.ndarray:
    """x Phi(x), element by element (Hendrycks and Gimpel 2016); approximate "tanh": their formula with a tanh.

    "none" is within 20 * 2^-24 of the exact result in both tails, or 2^-126 where that is more. -inf gives about -0.
    """
    one_of("approximate", approximate, ["none", "tanh"])
    return _same_shape("gelu", [_rows("x", x)], [], isa, n_threads, tanh=approximate == "tanh")


def op_call(op: str, inputs: list, outputs: list, parameters: Sequence = (), **options) -> _core.OpCall:
    """An op of `_core.OpKind` on float32 arrays and QuantizedRows, ready to run.

    parameters: Weights, arrays, or None in a place that may be empty. options: attributes of the instruction, and
    token_ids, positions, kv and counts of the batch. Raises FormatError where they don't fit the op.
    """
    batch = {name: options.pop(name) for name in ("token_ids", "positions", "kv", "counts") if name in options}
    given = [(f"parameter {i}", p) for i, p in enumerate(parameters) if p is not None]
    places, n = iter(range(len(given))), len(inputs)
    indices = [-1 if p is None else next(places) for p in parameters]
    kind, outputs_at = getattr(_core.OpKind, op), list(range(n, n + len(outputs)))
    at = _core.Instruction(kind, list(range(n)), outputs_at, indices, **options)
    return _core.OpCall(at, tuple(inputs), tuple(outputs), given, **batch)


def _same_shape(op: str, inputs: list, parameters: list, isa: str | None, n_threads: int | None, **options):
    y = np.empty_like(inputs[0])
    _run([op_call(op, inputs, [y], parameters, **options)], isa, n_threads)
    return y


def _run(work: list[_core.Work], isa: str | None, n_threads: int | None) -> None:
    one_of("isa", isa, [None, *_core.isas()])
    _core.run_all(work, _pool(n_threads), isa or "auto")


def _pool(n_threads: int | None) -> _core.ThreadPool:
    if n_threads is not None:
        integer("n_threads", n_threads, 1, 1024)
    return _core.ThreadPool(n_threads or _core.cpu_info().default_threads)


def _array(name: str, x: object, shape: tuple[int | None, ...]) -> np.ndarray:
    """x as contiguous float32, if it has this shape; None stands for any size of at least 1."""
    sizes = ", ".join("any" if n is None else str(n) for n in shape)
    expected = f"a float32 or float16 array [{sizes}]"
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float16):
        found = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else shown(x)
        raise ParameterError(name, expected=expected, found=found)
    fits = len(x.shape) == len(shape) and all(n in (None, m) for m, n in zip(x.shape, shape, strict=True))
    if not fits or 0 in x.shape:
        raise ParameterError(name, expected=expected, found=str(list(x.shape)))
    return np.ascontiguousarray(x, np.float32)


def _rows(name: str, x: object, width: int | None = None, rows: int | None = None) -> np.ndarray:
    return _array(name, x, (rows, width))


def _vector(name: str, x: object, n: int) -> np.ndarray:
    return _array(name, x, (n,))


def _integers(name: str, values: object, n: int, least: int, most: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n,) or values.dtype.kind not in "iu":
        found = f"{values.dtype} {list(values.shape)}"
        raise ParameterError(name, expected=f"integers [{n}]", found=found)
    wrong = (values < least) | (values > most)
    if wrong.any():
        raise ParameterError(name, expected=f"{least} to {most}", found=str(values[wrong][0]))
    return values


def _lengths(name: str, lengths: Sequence[int], total: int) -> list[int]:
    lengths = [int(n) for n in _integers(name, lengths, np.size(lengths), 1, total)]
    if sum(lengths) != total:
        raise ParameterError(name, expected=f"a sum of {total}, the number of rows", found=str(sum(lengths)))
    return lengths


def _ragged(lengths, query_lengths, n_tokens: int, n_queries: int) -> tuple[list[int], list[int]]:
    lengths = _lengths("lengths", [n_tokens] if lengths is None else lengths, n_tokens)
    queries = _lengths("query_lengths", lengths if query_lengths is None else query_lengths, n_queries)
    if len(queries) != len(lengths) or any(n > length for n, length in zip(queries, lengths, strict=True)):
        raise ParameterError("query_lengths", expected=f"up to {lengths}", found=str(queries))
    return lengths, queries


def _head_dim(x: np.ndarray, n_heads: int) -> int:
    integer("n_heads", n_heads, 1, _MAX_INT)
    head_dim, rest = divmod(x.shape[1], n_heads)
    if rest or head_dim % 2 or not 0 < head_dim <= _core.MAX_HEAD_DIM:
        expected = f"n_heads * head_dim columns, head_dim even and at most {_core.MAX_HEAD_DIM}"
        raise ParameterError("n_heads", expected=expected, found=f"{x.shape[1]} columns for {n_heads} heads")
    return head_dim


def _number(name: str, value: object, above: float | None = None) -> float:
    """A finite number of at least 0, or above a limit."""
    limits = "of at least 0" if above is None else f"above {above:g}"
    good = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool) and np.isfinite(value)
    if not good or abs(value) > _MAX_F32 or (value < 0 if above is None else value <= above):
        raise ParameterError(name, expected=f"a number {limits}", found=shown(value))
    return float(value)
