"""Comparing logits: a failure says where the worst of them is, what it is and what it should be."""

from __future__ import annotations

import numpy as np


def assert_same(got: np.ndarray, expected: np.ndarray, what: str = "logits") -> None:
    """Every number `==` the expected one, and finite."""
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    assert np.isfinite(expected).all(), f"{what}: the expected numbers are not finite"
    wrong = got != expected
    if wrong.any():
        distance = np.where(wrong, np.nan_to_num(np.abs(got - expected), nan=np.inf), -1)
        raise AssertionError(f"{what}: {wrong.sum()} of {wrong.size} differ; {_worst(got, expected, distance)}")


def assert_close(got: np.ndarray, expected: np.ndarray, share: float, what: str = "logits") -> None:
    """In every row, no number is further off than `share` of the row's largest magnitude. Both [rows, n]."""
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    largest = np.abs(expected).max(axis=-1, keepdims=True)
    distance = np.nan_to_num(np.abs(got - expected) / largest, nan=np.inf)
    if distance.max() > share:
        raise AssertionError(f"{what}: off by {distance.max():.3g} of the largest; {_worst(got, expected, distance)}")


def _worst(got: np.ndarray, expected: np.ndarray, distance: np.ndarray) -> str:
    at = np.unravel_index(distance.argmax(), distance.shape)
    return f"worst at {[int(i) for i in at]}: got {got[at]!r}, expected {expected[at]!r}"
