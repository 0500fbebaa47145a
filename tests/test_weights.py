"""Packed weights from Python: shapes, formats and instruction sets by hypothesis, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jiffy
from jiffy import _core
from jiffy.tensor_entry import TensorEntry
from jiffy.weights import Packing, Weights

POOL = _core.ThreadPool(2)
EPS = 2.0**-24


def packed(w: np.ndarray, fmt: str, **options) -> _core.Weight:
    weight = _core.Weight("w", *w.shape, fmt, **options)
    weight.pack_rows(0, np.ascontiguousarray(w, np.float32).view(np.uint8), "f32", POOL)
    return weight


@settings(max_examples=60, deadline=None)
@given(
    fmt=st.sampled_from(_core.format_names()),
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    rows=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
)
def test_matmul_is_right_on_every_isa_and_equal_on_all(fmt: str, n: int, k: int, rows: int, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, k)).astype(np.float32)
    weight = packed(rng.normal(size=(n, k)), fmt)
    results = [_core.matmul([weight], x, POOL, isa) for isa in jiffy.isas()]
    if fmt != "bf16":  # an instruction for bf16 rounds in its own way
        assert all(np.array_equal(results[0], other) for other in results[1:])
    w = weight.unpack().astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(w).T
    codes = 32 if fmt.endswith("a") else 1  # codes and offset cancel: each may be 32 times what is left
    # Sums are off by a few eps for each product; before that, x as `activation_error` says.
    bound = 1.001 * activation_error(fmt, x) @ np.abs(w).T + 4 * EPS * (k + 16) * codes * size + 1e-30
    for isa, result in zip(jiffy.isas(), results, strict=True):
        worst = np.unravel_index(np.argmax(np.abs(result - x @ w.T) - bound), bound.shape)
        assert np.abs(result - x @ w.T)[worst] <= bound[worst], (isa, worst)


def activation_error(fmt: str, x: np.ndarray) -> np.ndarray:
    """How far off the numbers of x [rows, k] are where they meet the weights."""
    if fmt == "f32":
        return np.zeros(x.shape)
    if fmt == "bf16":  # 8 significant bits
        return np.abs(x) * 2.0**-8
    return np.broadcast_to(np.abs(x).max(axis=1, keepdims=True) / 254, x.shape)  # half a step of int8


@pytest.mark.parametrize("fmt", [f for f in _core.format_names() if f.startswith("i")])
@pytest.mark.parametrize("scale", [1e-9, 1e7])
def test_scales_that_float16_cannot_hold_become_float32(tmp_path, fmt: str, scale: float):
    rng = np.random.default_rng(1)
    w = (rng.normal(size=(20, 64)) * scale).astype(np.float32)
    path = tmp_path / "w.bin"
    path.write_bytes(w.tobytes())
    entry = TensorEntry("w", "f32", w.shape, path, 0, w.nbytes)
    weight = Weights({"w": entry}, Packing(POOL, weights=fmt)).matrix("w")
    error = np.abs(weight.unpack() - w).max(axis=1) / np.abs(w).max(axis=1)
    assert (error <= (1 / 7 if weight.format.startswith("i4") else 1 / 120)).all()


def test_float16_scales_would_have_lost_such_weights():
    w = np.full((16, 32), 1e-9, np.float32)
    assert (packed(w, "i4").unpack() == 0).all()
    assert np.allclose(packed(w, "i4", f32_scales=True).unpack(), w, rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "rows"), [("f32", "f32"), ("bf16", "bf16"), ("i4g64a", "q8(64)"), ("i8", "q8(128)")]
)
def test_activations_of_each_format(weight: str, rows: str):
    activations = _core.Weight("w", 4, 4, weight).activations
    assert repr(activations) == rows
    assert activations == _core.Weight("v", 5, 9, weight).activations
    assert (activations == _core.RowFormat()) == (weight == "f32")
    assert len({activations, _core.RowFormat(), _core.Weight("v", 1, 1, weight).activations}) == 1 + (weight != "f32")


def test_errors_name_what_is_wrong():
    with pytest.raises(jiffy.ParameterError, match="i4g64a"):
        _core.Weight("w", 4, 4, "i5")
    weight = _core.Weight("layers.0.w", 20, 40, "i4")
    with pytest.raises(jiffy.FormatError, match=r"layers\.0\.w: expected rows of 160 bytes, found 159"):
        weight.pack_rows(0, np.zeros((4, 159), np.uint8), "f32", POOL)
    with pytest.raises(jiffy.Unsupported, match="q6_k"):
        weight.pack_rows(0, np.zeros((4, 160), np.uint8), "q6_k", POOL)
    with pytest.raises(jiffy.ParameterError, match=r"\[rows, 40\]"):
        _core.matmul([weight], np.zeros((1, 39), np.float32), POOL)
    with pytest.raises(jiffy.ParameterError, match="at least one"):
        _core.matmul([], np.zeros((1, 39), np.float32), POOL)


def test_limits_are_measured():
    from jiffy.bench.limits import PATTERNS, measure_limits

    limits = measure_limits(1, 8 << 20, rounds=1)
    assert set(limits.bandwidth) == set(PATTERNS)
    assert limits.best_bandwidth > 1e8
    assert limits.int8 > 1e8
    assert limits.f32 > 1e8
