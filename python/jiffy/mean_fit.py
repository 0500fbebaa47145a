"""Rows whose means are near given targets: by a linear map from what is known of each row, and one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_MAP_PRICE = 300.0  # texts that a number of the map, of usual size, is worth
_STEP_PRICE = 0.03  # of moving single rows (0.1: other texts gain 0.004 of correlation, those learned from lose 0.05)
_ROUNDS = 30
_COLUMNS = 10  # solved at a time: each needs a number for every token of all texts
_TEXTS_AT_ONCE = 1024  # of the map: each needs a feature's number for every token


class Means:
    """Means of rows over the ids of each text, as a linear map."""

    def __init__(self, ids: Sequence[np.ndarray], n_rows: int) -> None:
        self._ids, self._n_rows = ids, n_rows
        lengths = np.array([len(some) for some in ids])
        self._flat = np.concatenate(ids)
        self._begins = np.cumsum(lengths) - lengths
        self._shares = 1.0 / lengths[:, None]
        order = np.argsort(self._flat, kind="stable")
        self._texts = np.repeat(np.arange(len(ids)), lengths)[order]
        self._rows, self._starts = np.unique(self._flat[order], return_index=True)

    def of(self, rows: np.ndarray) -> np.ndarray:
        return np.add.reduceat(rows[self._flat], self._begins, axis=0) * self._shares

    def spread(self, targets: np.ndarray) -> np.ndarray:
        """The transposed map."""
        found = np.zeros((self._n_rows, targets.shape[1]), targets.dtype)
        found[self._rows] = np.add.reduceat((targets * self._shares)[self._texts], self._starts, axis=0)
        return found

    def pieces(self) -> Iterator[tuple[slice, Means]]:
        """A thousand texts at a time, and which they are."""
        for i in range(0, len(self._ids), _TEXTS_AT_ONCE):
            some = slice(i, i + _TEXTS_AT_ONCE)
            yield some, Means(self._ids[some], self._n_rows)


class FeatureMap:
    """Least squares, with a price, for the map from features of rows to rows whose means are near the targets.

    Each lot of texts may differ from all others by a constant that belongs to no row.
    """

    def __init__(self, features: np.ndarray, n_targets: int, n_lots: int) -> None:
        self._features = features
        size = features.shape[1] + n_lots
        self._left, self._right = np.zeros((size, size)), np.zeros((size, n_targets))

    def add(self, lot: int, means: Means, targets: np.ndarray, weight: float) -> None:
        width = self._features.shape[1]
        for some, part in means.pieces():
            known = np.zeros((len(targets[some]), len(self._left)), np.float32)
            known[:, :width] = part.of(self._features)
            known[:, width + lot] = 1.0
            self._left += weight * (known.T @ known)
            self._right += weight * (known.T @ targets[some])

    def solved(self) -> np.ndarray:
        """[features, targets]."""
        sizes = np.sqrt(np.maximum(np.diag(self._left), 1e-12))
        usual = np.diag(self._left)[self._features.shape[1] :].sum()  # how many texts there are, by weight
        price = _MAP_PRICE / max(usual, 1e-12)
        left = self._left / sizes[:, None] / sizes + price * np.eye(len(sizes))
        found = np.linalg.solve(left, self._right / sizes[:, None]) / sizes[:, None]
        return found[: self._features.shape[1]]


def moved(rows: np.ndarray, means: Means, targets: np.ndarray) -> np.ndarray:
    """The rows, each moved by itself so that their means come nearer the targets, at a price for long ways."""
    parts = (slice(i, i + _COLUMNS) for i in range(0, rows.shape[1], _COLUMNS))
    return np.hstack([_solved(rows[:, part], means, targets[:, part]) for part in parts])


def _solved(rows: np.ndarray, means: Means, targets: np.ndarray) -> np.ndarray:
    """By conjugate gradients."""
    steps = np.zeros_like(rows)
    rest = means.spread(targets - means.of(rows))
    direction, size = rest.copy(), (rest * rest).sum(axis=0)
    for _ in range(_ROUNDS):
        bent = means.spread(means.of(direction)) + _STEP_PRICE * direction
        length = size / np.maximum((direction * bent).sum(axis=0), 1e-300)
        steps += length * direction
        rest -= length * bent
        before, size = size, (rest * rest).sum(axis=0)
        direction = rest + size / np.maximum(before, 1e-300) * direction
    return rows + steps
