"""jiffy.ops against float64 by the book, equal on every instruction set, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from math import erfc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jiffy
from jiffy import _core, ops

EPS = 2.0**-24
SIZES = st.one_of(st.sampled_from([1, 12, 13, 16, 17, 64]), st.integers(1, 90))
SEEDS = st.integers(0, 2**32 - 1)
examples = partial(settings, deadline=None)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def on_every_isa(call, *args, **options) -> np.ndarray:
    """The result, `==` on all instruction sets and numbers of threads, float64."""
    results = [call(*args, **options, isa=isa, n_threads=2) for isa in jiffy.isas()]
    for other in [*results[1:], call(*args, **options, n_threads=1)]:
        assert np.array_equal(results[0], other)
    assert results[0].dtype == np.float32 and results[0].flags.owndata and results[0].flags.writeable
    return results[0].astype(np.float64)


def assert_within(got: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    assert got.shape == expected.shape
    error = np.abs(got - expected)
    if not (error <= bound).all():
        at = np.unravel_index(np.argmax(error - bound), error.shape)
        raise AssertionError(
            f"at {at}: got {got[at]}, expected {expected[at]} within {np.broadcast_to(bound, error.shape)[at]}"
        )


@examples(max_examples=60)
@given(
    fmt=st.sampled_from(_core.format_names()),
    n=SIZES,
    k=st.integers(1, 300),
    rows=SIZES,
    seed=SEEDS,
    extra=st.sampled_from(["", "bias", "residual", "both"]),
)
def test_matmul(fmt: str, n: int, k: int, rows: int, seed: int, extra: str):
    x, weight = normal(seed, rows, k), ops.quantize(normal(seed + 1, n, k), fmt)
    bias = normal(seed + 2, n) if extra in ("bias", "both") else None
    residual = normal(seed + 3, rows, n) if extra in ("residual", "both") else None
    if fmt == "bf16":  # whose native instruction rounds in its own way
        got = [ops.matmul(x, weight, bias, residual, isa=isa, n_threads=2) for isa in jiffy.isas()]
    else:
        got = [on_every_isa(ops.matmul, x, weight, bias, residual)]
    w = weight.unpack().astype(np.float64)
    expected = x @ w.T + (0 if bias is None else bias) + (0 if residual is None else residual)
    # int8 activations are off by half a step, max|x| / 254, those in bf16 by 2^-8 of each; floats by a few eps for each
    # product and sum.
    step = np.abs(x).max(axis=1, keepdims=True) / 254 if fmt.startswith("i") else 0.0
    share = 2.0**-8 if fmt == "bf16" else 0.0
    codes = 32 if fmt.endswith("a") else 1  # codes and offset cancel: each may be 32 times what is left
    size = np.abs(x).astype(np.float64) @ np.abs(w).T
    rounding = codes * size + sum(np.abs(part) for part in (bias, residual) if part is not None)
    bound = 1.001 * (step * np.abs(w).sum(axis=1) + share * size) + 4 * EPS * (k + 16) * rounding + 1e-30
    for y in got:
        assert_within(y, expected, bound)


@pytest.mark.parametrize("fmt", _core.format_names())
def test_quantize_keeps_what_the_format_can(fmt: str):
    for scale in (1.0, 1e-9, 1e7):  # float16 holds no scales of the last two
        w = normal(1, 21, 150) * np.float32(scale)
        weight = ops.quantize(w, fmt)
        steps = {"i4": 7, "i8": 120, "bf": 2**8}.get(fmt[:2], 2**23)
        assert weight.format == fmt
        assert (np.abs(weight.unpack() - w) <= np.abs(w).max(axis=1, keepdims=True) / steps).all()


@examples(max_examples=40)
@given(rows=SIZES, width=st.integers(1, 300), seed=SEEDS, mean=st.sampled_from([0.0, 100.0]), biased=st.booleans())
def test_norms(rows: int, width: int, seed: int, mean: float, biased: bool):
    x, w, b = normal(seed, rows, width) + np.float32(mean), normal(seed + 1, width), normal(seed + 2, width)
    eps, exact = np.float32(1e-5), x.astype(np.float64)
    expected = exact / np.sqrt((exact**2).mean(1, keepdims=True) + eps) * w
    assert_within(on_every_isa(ops.rms_norm, x, w), expected, (width / 64 + 16) * EPS * np.abs(expected))
    inverse = 1 / np.sqrt(exact.var(1, keepdims=True) + eps)
    scaled = (exact - exact.mean(1, keepdims=True)) * inverse * w
    # The mean is off by a few eps of the numbers' size, which a small deviation enlarges.
    size = np.abs(exact).mean(1, keepdims=True) * inverse * np.abs(w) + np.abs(scaled) + np.abs(b)
    got = on_every_isa(ops.layer_norm, x, w, b if biased else None)
    assert_within(got, scaled + b * biased, (width / 64 + 16) * EPS * size)


def test_eps_of_norms_counts():
    x, ones = np.full((1, 4), 2.0, np.float32), np.ones(4, np.float32)
    assert ops.rms_norm(x, ones, 12.0)[0, 0] == 0.5
    assert ops.layer_norm(np.array([[1, -1, 1, -1]], np.float32), ones, eps=3.0)[0, 0] == 0.5


@examples(max_examples=30)
@given(rows=SIZES, n_heads=st.integers(1, 5), half=st.integers(1, 40), seed=SEEDS)
def test_rope(rows: int, n_heads: int, half: int, seed: int):
    x = normal(seed, rows, n_heads * 2 * half)
    positions = np.random.default_rng(seed).integers(0, 5000, rows)
    theta = 10000.0
    got = on_every_isa(ops.rope, x, positions, n_heads=n_heads, theta=theta)
    angle = positions[:, None, None] * theta ** (-np.arange(half) / half)
    a, b = np.split(x.astype(np.float64).reshape(rows, n_heads, 2 * half), 2, axis=2)
    expected = np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=2)
    size = np.concatenate([np.abs(a) + np.abs(b)] * 2, axis=2)  # tables, products and sum each round once
    assert_within(got.reshape(expected.shape), expected, 3 * EPS * size)
    angles = np.arange(5000)[:, None] * theta ** (-np.arange(half) / half)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    assert np.array_equal(got, ops.rope(x, positions, *tables, n_heads=n_heads))


def test_rope_of_the_last_position_needs_no_table():
    x = normal(1, 1, 8)
    got = ops.rope(x, [2**31 - 1], n_heads=1, theta=500.0)
    assert np.abs(np.linalg.norm(got) / np.linalg.norm(x) - 1) < 8 * EPS


def attended(q, k, v, *, n_heads, n_kv_heads, causal, window, lengths, queries) -> tuple[np.ndarray, np.ndarray]:
    """The result in float64, and sum of p |v|, which errors are relative to."""
    head_dim = q.shape[1] // n_heads
    parts, sizes, row, token = [], [], 0, 0
    for length, n in zip(lengths, queries, strict=True):
        q_ = q[row : row + n].astype(np.float64).reshape(n, n_heads, head_dim)
        k_, v_ = (
            np.repeat(
                x[token : token + length].astype(np.float64).reshape(length, n_kv_heads, head_dim),
                n_heads // n_kv_heads,
                axis=1,
            )
            for x in (k, v)
        )
        scores = np.einsum("qhd,khd->hqk", q_, k_) * head_dim**-0.5
        at, seen = np.arange(length - n, length)[:, None], np.arange(length)[None]
        mask = (seen <= at) | (not causal)
        if window:
            mask &= np.abs(seen - at) < window
        scores = np.where(mask, scores, -np.inf)
        p = np.exp(scores - scores.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        parts.append(np.einsum("hqk,khd->qhd", p, v_).reshape(n, -1))
        sizes.append(np.einsum("hqk,khd->qhd", p, np.abs(v_)).reshape(n, -1))
        row, token = row + n, token + length
    return np.concatenate(parts), np.concatenate(sizes)


@examples(max_examples=40)
@given(
    data=st.data(),
    n_kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    half=st.integers(1, 40),
    seed=SEEDS,
    causal=st.booleans(),
    window=st.sampled_from([0, 1, 7, 100]),
    kv_dtype=st.sampled_from(["f32", "bf16"]),
)
def test_attention(data, n_kv_heads, group, half, seed, causal, window, kv_dtype):
    lengths = data.draw(st.lists(st.sampled_from([1, 2, 13, 31, 32, 33, 70]), min_size=1, max_size=4))
    queries = [data.draw(st.integers(1, n)) for n in lengths]
    n_heads, head_dim = n_kv_heads * group, 2 * half
    q = normal(seed, sum(queries), n_heads * head_dim)
    k, v = (normal(seed + i, sum(lengths), n_kv_heads * head_dim) for i in (1, 2))
    if kv_dtype == "bf16":  # numbers that bf16 holds exactly
        q, k, v = ((x.view(np.uint32) & 0xFFFF0000).view(np.float32) for x in (q, k, v))
    shape = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "causal": causal, "window": window}
    got = on_every_isa(ops.attention, q, k, v, lengths=lengths, query_lengths=queries, kv_dtype=kv_dtype, **shape)
    expected, size = attended(q, k, v, lengths=lengths, queries=queries, **shape)
    # A score's error of head_dim eps times its magnitude moves every probability by as much.
    # Probabilities in bf16 are off by 2^-8 of each, and so is their sum.
    rounding = 2 * 2.0**-8 if kv_dtype == "bf16" else 0.0
    assert_within(got, expected, size * (EPS * (64 + 8 * head_dim) + rounding) + 1e-30)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_dtype", ["f32", "bf16", "int8"])
def test_a_sequence_does_not_depend_on_its_companions(kv_dtype: str, causal: bool):
    lengths = [40, 1, 600, 33]
    q, k, v = normal(1, sum(lengths), 96), normal(2, sum(lengths), 32), normal(3, sum(lengths), 32)
    options = {"n_heads": 3, "n_kv_heads": 1, "kv_dtype": kv_dtype, "causal": causal, "window": 50}
    together = on_every_isa(ops.attention, q, k, v, lengths=lengths, **options)
    begin = 0
    for length in lengths:
        rows = slice(begin, begin + length)
        alone = ops.attention(q[rows], k[rows], v[rows], **options, n_threads=1)
        assert np.array_equal(alone, together[rows])
        last = ops.attention(q[rows][-1:], k[rows], v[rows], query_lengths=[1], **options)
        assert np.array_equal(last[0], alone[-1])
        begin += length


def test_attention_in_int8_is_near():
    """7-bit probabilities and 8-bit codes: about 1 % of a value each, averaged over those attended to."""
    q, k, v = normal(1, 200, 64), normal(2, 200, 64), normal(3, 200, 64)
    exact, near = (ops.attention(q, k, v, n_heads=1, kv_dtype=t).astype(np.float64) for t in ("f32", "int8"))
    assert 0 < np.sqrt(np.mean((near - exact) ** 2)) < 0.03 * np.sqrt(np.mean(exact**2))


@examples(max_examples=30)
@given(rows=SIZES, width=SIZES, seed=SEEDS, scale=st.sampled_from([0.01, 1.0, 8.0, 30.0]))
def test_silu_mul_and_gelu(rows: int, width: int, seed: int, scale: float):
    x, up = normal(seed, rows, width) * np.float32(scale), normal(seed + 1, rows, width)
    a = x.astype(np.float64)
    silu = a / (1 + np.exp(-a)) * up
    assert_within(on_every_isa(ops.silu_mul, x, up), silu, 8 * EPS * np.abs(silu) + 1e-35)
    exact = a / 2 * np.vectorize(erfc)(-a / np.sqrt(2))
    assert_within(on_every_isa(ops.gelu, x), exact, 20 * EPS * np.abs(exact) + 2.0**-126)
    twice_u = 2 * np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)
    near = a / (1 + np.exp(np.minimum(-twice_u, 700)))
    bound = (8 + 4 * np.minimum(np.abs(twice_u), 88)) * EPS * np.abs(near) + 1e-37
    assert_within(on_every_isa(ops.gelu, x, approximate="tanh"), near, bound)


def test_any_memory_order_and_float16_are_taken():
    x, w = normal(1, 30, 20), normal(2, 20)
    expected = ops.rms_norm(x, w)
    strided = np.zeros((60, 40), np.float32)
    strided[::2, ::-2] = x
    assert np.array_equal(ops.rms_norm(strided[::2, ::-2], w), expected)
    assert np.array_equal(ops.rms_norm(np.asfortranarray(x), w), expected)
    half = x.astype(np.float16)
    assert np.array_equal(ops.rms_norm(half, w), ops.rms_norm(half.astype(np.float32), w))
    read_only = x.copy()
    read_only.flags.writeable = False
    assert np.array_equal(ops.rms_norm(read_only, w), expected)


def test_nan_and_infinity_are_computed_with():
    x = np.array([[1, np.nan], [np.inf, 1], [2, 3]], np.float32)
    y = ops.rms_norm(x, np.ones(2, np.float32))
    assert np.isnan(y[:2]).all() and np.isfinite(y[2]).all()


X, W = normal(1, 4, 8), normal(2, 8)
PACKED = ops.quantize(normal(3, 5, 8), "i4")
attend = partial(ops.attention, X, X, X)
REFUSED = {
    "x: expected a float32 or float16 array [any, 8], found [4, 7]": lambda: ops.matmul(X[:, :7], PACKED),
    "x: expected a float32 or float16 array [any, any], found an array of float64": lambda: ops.gelu(X.astype(float)),
    "x: expected a float32 or float16 array [any, any], found [8]": lambda: ops.gelu(W),
    "x: expected a float32 or float16 array [any, any], found [0, 8]": lambda: ops.gelu(X[:0]),
    "x: expected a float32 or float16 array [any, any], found [4, 0]": lambda: ops.gelu(X[:, :0]),
    "x: expected a float32 or float16 array [any, any], found a list of 1": lambda: ops.gelu([[1.0]]),
    "approximate: expected one of none, tanh": lambda: ops.gelu(X, "erf"),
    "isa: expected one of None, scalar": lambda: ops.gelu(X, isa="mmx"),
    "n_threads: expected an integer from 1 to 1024, found 0": lambda: ops.gelu(X, n_threads=0),
    "weight: expected a Weight": lambda: ops.matmul(X, X),
    "bias: expected a float32 or float16 array [5], found [8]": lambda: ops.matmul(X, PACKED, W),
    "residual: expected a float32 or float16 array [4, 5]": lambda: ops.matmul(X, PACKED, residual=X),
    "format: expected one of f32": lambda: ops.quantize(X, "i5"),
    "w: expected finite weights": lambda: ops.quantize(X * np.float32(np.inf), "i4"),
    "weight: expected a float32 or float16 array [8], found [4, 8]": lambda: ops.rms_norm(X, X),
    "eps: expected a number of at least 0, found -1": lambda: ops.rms_norm(X, W, -1.0),
    "eps: expected a number of at least 0, found nan": lambda: ops.layer_norm(X, W, W, np.nan),
    "bias: expected a float32 or float16 array [8], found [7]": lambda: ops.layer_norm(X, W, W[:7]),
    "up: expected a float32 or float16 array [4, 8], found [3, 8]": lambda: ops.silu_mul(X, X[:3]),
    "n_heads: expected n_heads * head_dim columns": lambda: ops.rope(X, range(4), n_heads=3, theta=1.0),
    "n_heads: expected an integer from 1": lambda: ops.rope(X, range(4), n_heads=0, theta=1.0),
    "positions: expected integers [4], found int64 [3]": lambda: ops.rope(X, range(3), n_heads=1, theta=1.0),
    "positions: expected 0 to 2147483647, found -1": lambda: ops.rope(X, [0, 1, 2, -1], n_heads=1, theta=1.0),
    "positions: expected below the tables' 3 lines": lambda: ops.rope(X, range(4), *(X[:3, :4],) * 2, n_heads=1),
    "sines: expected a float32 or float16 array [4, 4]": lambda: ops.rope(X, range(4), X[:, :4], X[:3, :4], n_heads=1),
    "theta: expected either theta": lambda: ops.rope(X, range(4), n_heads=1),
    "theta: expected a number above 0": lambda: ops.rope(X, range(4), n_heads=1, theta=0.0),
    "n_kv_heads: expected an integer from 1 to 2": lambda: attend(n_heads=2, n_kv_heads=3),
    "n_kv_heads: expected a divisor of 4, found 3": lambda: attend(n_heads=4, n_kv_heads=3),
    "k: expected a float32 or float16 array [any, 4], found [4, 8]": lambda: attend(n_heads=2, n_kv_heads=1),
    "v: expected a float32 or float16 array [4, 8], found [3, 8]": lambda: ops.attention(X, X, X[:3], n_heads=1),
    "lengths: expected a sum of 4": lambda: attend(n_heads=1, lengths=[1, 2]),
    "lengths: expected 1 to 4, found 0": lambda: attend(n_heads=1, lengths=[4, 0]),
    "lengths: expected integers": lambda: attend(n_heads=1, lengths=[1.5, 2.5]),
    "query_lengths: expected up to [1, 3]": lambda: attend(n_heads=1, lengths=[1, 3], query_lengths=[3, 1]),
    "window: expected an integer from 0": lambda: attend(n_heads=1, window=-1),
    "causal: expected True or False": lambda: attend(n_heads=1, causal=None),
    "scale: expected a number above 0": lambda: attend(n_heads=1, scale=0),
    "kv_dtype: expected one of f32, bf16, int8": lambda: attend(n_heads=1, kv_dtype="i4"),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_bad_arguments_are_named(message: str):
    with pytest.raises(jiffy.ParameterError) as caught:
        REFUSED[message]()
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.op_call("rope", [X], [X.copy()], [X, X], positions=[0, 1, 2, 9], n_heads=1, head_dim=16),
        lambda: ops.op_call("embedding", [], [X.copy()], [PACKED], token_ids=[0, 1, 2, 5]),
        lambda: ops.op_call("attention", [X], [X.copy()], n_heads=1, n_kv_heads=1, head_dim=8),
        lambda: ops.op_call("add", [X, X[:3].copy()], [X.copy()]),
        lambda: ops.op_call("gelu", [X.T], [X.copy()]),
    ],
)
def test_the_native_side_keeps_within_its_arrays(call):
    with pytest.raises((jiffy.ParameterError, jiffy.FormatError)):
        call()


def test_ops_are_there_when_asked_for():
    code = "import sys, jiffy; assert 'numpy' not in sys.modules; jiffy.ops.gelu; assert 'numpy' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
