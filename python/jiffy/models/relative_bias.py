"""Biases of attention by the distance between two positions, in buckets (Raffel et al. 2019).

Near distances have a bucket each, far ones share theirs on a logarithmic scale, and from MAX_DISTANCE on all are one: a
table over the clipped distance says it all.
"""

from __future__ import annotations

import math

import numpy as np

MAX_DISTANCE = 128


def bidirectional_bias(table: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """table [n_buckets, n_heads] -> [n_heads, 2 * max_distance + 1] by the distance key - query.

    Half of the buckets are for keys behind the query.
    """
    half = len(table) // 2
    distance = np.arange(-max_distance, max_distance + 1)
    buckets = np.where(distance > 0, half, 0) + bucket(np.abs(distance), half, max_distance)
    return np.ascontiguousarray(table[buckets].T)


def causal_bias(table: np.ndarray, max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """The same where a query sees what is before it alone, with all buckets."""
    behind = np.maximum(-np.arange(-max_distance, max_distance + 1), 0)
    return np.ascontiguousarray(table[bucket(behind, len(table), max_distance)].T)


def bucket(distance: np.ndarray, n_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance of at least 0, with the roundings of transformers' float32."""
    exact = max(1, n_buckets // 2)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(max_distance / exact)) * (n_buckets - exact)).astype(np.int64)
    return np.where(distance < exact, distance, np.minimum(far, n_buckets - 1))
