"""Packed weights from Python: scales that float16 can't hold, and errors by name."""

from __future__ import annotations

import numpy as np
import pytest

import jiffy
from jiffy import _core
from jiffy.tensor_entry import TensorEntry
from jiffy.weights import Packing, Weights, rotate

POOL = _core.ThreadPool(2)


def packed(w: np.ndarray, fmt: str, **options) -> _core.Weight:
    weight = _core.Weight("w", *w.shape, fmt, **options)
    weight.pack_rows(0, np.ascontiguousarray(w, np.float32).view(np.uint8), "f32", POOL)
    return weight


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


def test_rotated_weights_give_the_same_products():
    """With inputs times the Hadamard matrix of 8, written out by its signs."""
    rng = np.random.default_rng(4)
    w, x = rng.standard_normal((20, 256)).astype(np.float32), rng.standard_normal((5, 256))
    signs = [[(-1) ** (i & k).bit_count() for k in range(8)] for i in range(8)]
    rotated = np.einsum("ik,nbkj->nbij", signs, x.reshape(5, 2, 8, 16)).reshape(5, 256)
    np.testing.assert_allclose(rotated @ rotate(w).T, x @ w.T, atol=1e-5)


@pytest.mark.parametrize(("fmt", "cols", "rotates"), [("i8", 256, True), ("i4", 256, True), ("i8", 200, False)])
def test_linear_layers_are_rotated_where_whole_blocks_allow(tmp_path, fmt, cols, rotates):
    """And a table never is: its rows are looked up."""
    w = np.random.default_rng(5).standard_normal((40, cols)).astype(np.float32)
    (tmp_path / "w.bin").write_bytes(w.tobytes())
    entry = TensorEntry("a.weight", "f32", w.shape, tmp_path / "w.bin", 0, w.nbytes)
    for wanted in (False, True):
        weights = Weights({"a.weight": entry}, Packing(POOL, weights=fmt, rotated=wanted))
        found = weights.linear("a")
        assert found.rotated == (wanted and rotates)
        expected = packed(rotate(w) if found.rotated else w, fmt)
        assert (found.weight.unpack() == expected.unpack()).all()
        assert (weights.matrix("a.weight").unpack() == packed(w, fmt).unpack()).all()


def test_float16_scales_would_have_lost_such_weights():
    w = np.full((16, 32), 1e-9, np.float32)
    assert (packed(w, "i4").unpack() == 0).all()
    assert np.allclose(packed(w, "i4", f32_scales=True).unpack(), w, rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "rows"),
    [
        ("f32", "f32"),
        ("bf16", "bf16"),
        ("i4", "q8(32, powers)"),
        ("i4a", "q8(32)"),
        ("i4g64a", "q8(64)"),
        ("i8", "q8(128)"),
    ],
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


def test_limits_are_measured():
    from jiffy.bench.limits import PATTERNS, measure_limits

    limits = measure_limits(1, 8 << 20, rounds=1)
    assert set(limits.bandwidth) == set(PATTERNS)
    assert limits.best_bandwidth > 1e8
    assert limits.int8 > 1e8
    assert limits.f32 > 1e8
