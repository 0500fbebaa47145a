"""The oracle: a traced program in float64, every op written the slow and obvious way.

One sequence from position 0 on, every row of which is an output; `select` therefore keeps all rows. Values are float64
[..., n_tokens, width], where leading axes are sequences of the same tokens that differ in their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .errors import Unsupported

if TYPE_CHECKING:
    from .graph import Trace

_TILE = 64  # positions whose probabilities share a scale in int8 attention
_PIECE = 1 << 22  # weights that are float64 at a time


def read_parameter(parameter: object) -> np.ndarray:
    """A parameter of a trace as float32: an array or a table as it is, a packed matrix [rows, cols] unpacked."""
    return np.asarray(parameter) if isinstance(parameter, (np.ndarray, _core.RopeTable)) else parameter.unpack()


def reference_logits(trace: Trace, token_ids: Sequence[int]) -> np.ndarray:
    """float64 [n_tokens, vocab_size]: what the traced program should compute from its packed weights."""
    reference = Reference(trace, token_ids)
    reference.run(trace.instructions)
    return reference.values[trace.marks["logits"].index]


@dataclass
class Reference:
    """A run of a trace's instructions, as they were traced: `run` adds their outputs to `values`.

    read: gives a parameter as float32. rounded: values are rounded where the engine stores fewer bits (activations in
    bf16 or int8 groups; keys and values as `kv_dtype` says), all arithmetic stays exact. Otherwise nothing is rounded.
    source: what cross-attention reads, rows of an encoder's result: for each layer keys, then values, of all heads.
    """

    trace: Trace
    token_ids: Sequence[int]
    read: Callable[[object], np.ndarray] = read_parameter
    rounded: bool = False
    kv_dtype: str = "f32"
    source: np.ndarray | None = None
    values: dict[int, np.ndarray] = field(default_factory=dict)
    _kv: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # by layer

    def run(self, instructions: Iterable[_core.Instruction]) -> None:
        """Raises Unsupported for an op that has no reference."""
        for at in instructions:
            op = getattr(self, f"_{at.op}", None)
            if op is None:
                raise Unsupported("reference", expected="an op that it knows", found=at.op)
            parameters = [None if p < 0 else self.read(self.trace.parameters[p][1]) for p in at.parameters]
            with np.errstate(all="ignore"):  # infinities and NaN are results
                result = op(at, *(self.values[v] for v in at.inputs), *parameters)
            if at.outputs:
                self.values[at.outputs[0]] = result

    def _embedding(self, at: _core.Instruction, table: np.ndarray) -> np.ndarray:
        n, by = len(self.token_ids), at.attributes.indices
        positions, types = np.arange(n), np.zeros(n, np.int64)
        tokens = np.asarray(self.token_ids)
        rows = {_core.Indices.tokens: tokens, _core.Indices.positions: positions, _core.Indices.types: types}[by]
        return table[rows].astype(np.float64) * (at.attributes.scale or 1.0)

    def _rms_norm(self, at: _core.Instruction, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + at.attributes.eps) * weight

    def _layer_norm(
        self, at: _core.Instruction, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
    ) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        y = centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + at.attributes.eps) * weight
        return y if bias is None else y + bias

    def _quantize(self, at: _core.Instruction, x: np.ndarray) -> np.ndarray:
        if not self.rounded:
            return x
        row_format = self.trace.values[at.outputs[0]].format
        if row_format.bits == 16:
            return round_bf16(x)
        return round_int8_by_powers(x) if row_format.powers else round_int8(x, row_format.group)

    def _rotate_quantize(self, at: _core.Instruction, x: np.ndarray) -> np.ndarray:
        signs = np.array([[(-1) ** (i & k).bit_count() for k in range(8)] for i in range(8)])
        rotated = np.einsum("ik,...kj->...ij", signs, x.reshape(*x.shape[:-1], -1, 8, 16))
        return self._quantize(at, rotated.reshape(x.shape))

    def _matmul(self, at: _core.Instruction, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        y = np.empty((*x.shape[:-1], len(weight)))
        step = max(1, _PIECE // weight.shape[1])
        for begin in range(0, len(weight), step):
            y[..., begin : begin + step] = x @ weight[begin : begin + step].astype(np.float64).T
        return y if bias is None else y + bias

    def _rope(self, at: _core.Instruction, x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
        n_tokens = len(self.token_ids)
        first, second = np.split(_heads(x, at.attributes.n_heads), 2, axis=-1)
        c, s = (table[:n_tokens].astype(np.float64) for table in (cosines, sines))
        return _rows(np.concatenate([first * c - second * s, second * c + first * s], axis=-1))

    def _kv_write(self, at: _core.Instruction, k: np.ndarray, v: np.ndarray) -> None:
        self._kv[at.attributes.layer] = tuple(self._stored(_heads(x, at.attributes.n_kv_heads)) for x in (k, v))

    def _attention(self, at: _core.Instruction, q: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        a = at.attributes
        keys, values = self._of_source(a) if a.cross else self._kv[a.layer]
        queries = _heads(q, a.n_heads)
        rounds = self.kv_dtype if self.rounded else "f32"  # queries and probabilities, too
        if rounds != "f32":
            queries = round_bf16(queries) if rounds == "bf16" else round_int8(queries, a.head_dim)
        out = np.empty_like(queries)
        visible = np.full(1, True) if a.cross else self._visible(a)
        for head in range(a.n_heads):
            kv_head = head * a.n_kv_heads // a.n_heads
            scores = a.scale * queries[..., head, :, :] @ keys[..., kv_head, :, :].swapaxes(-1, -2)
            if bias is not None:
                scores = scores + bias[head][_clipped_distances(len(self.token_ids), bias.shape[1] // 2)]
            scores = np.where(visible, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            total = weights.sum(axis=-1, keepdims=True)
            if rounds != "f32":
                weights = round_bf16(weights) if rounds == "bf16" else round_int8(weights, _TILE)
            out[..., head, :, :] = weights / total @ values[..., kv_head, :, :]
        return _rows(out)

    def _of_source(self, a: _core.Attributes) -> tuple[np.ndarray, np.ndarray]:
        layers = np.split(self.source, self.source.shape[-1] // (a.n_kv_heads * a.head_dim), axis=-1)
        return tuple(self._stored(_heads(x, a.n_kv_heads)) for x in layers[2 * a.layer : 2 * a.layer + 2])

    def _visible(self, a: _core.Attributes) -> np.ndarray:
        """[n_tokens, n_tokens]: whether a row's token sees a column's."""
        behind = np.subtract.outer(np.arange(len(self.token_ids)), np.arange(len(self.token_ids)))
        seen = behind >= 0 if a.causal else np.full(behind.shape, True)
        return seen & (np.abs(behind) < a.window) if a.window else seen

    def _add(self, at: _core.Instruction, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a + b

    def _mul(self, at: _core.Instruction, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a * b

    def _activation(self, at: _core.Instruction, x: np.ndarray) -> np.ndarray:
        function = at.attributes.function
        if function == _core.Function.silu:
            return x / (1 + np.exp(-x))
        return np.tanh(x) if function == _core.Function.tanh else np.maximum(x, 0)

    def _silu_mul(self, at: _core.Instruction, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        return gate / (1 + np.exp(-gate)) * up

    def _gelu(self, at: _core.Instruction, x: np.ndarray) -> np.ndarray:
        if at.attributes.tanh:
            return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def _select(self, at: _core.Instruction, x: np.ndarray) -> np.ndarray:
        return x

    def _pool(self, at: _core.Instruction, x: np.ndarray) -> np.ndarray:
        kind = at.attributes.pooling
        if kind in (_core.Pooling.first, _core.Pooling.last):
            return x[..., :1, :] if kind == _core.Pooling.first else x[..., -1:, :]
        return (np.mean if kind == _core.Pooling.mean else np.max)(x, axis=-2, keepdims=True)

    def _ssru(self, at: _core.Instruction, forget: np.ndarray, x: np.ndarray) -> np.ndarray:
        kept, state, out = 1 / (1 + np.exp(-forget)), 0.0, np.empty_like(x)
        for i in range(x.shape[-2]):
            state = kept[..., i, :] * state + (1 - kept[..., i, :]) * x[..., i, :]
            out[..., i, :] = np.maximum(state, 0)
        return out

    def _stored(self, x: np.ndarray) -> np.ndarray:
        """Keys or values [..., n_kv_heads, n_tokens, head_dim] as the cache holds them."""
        if not self.rounded or self.kv_dtype == "f32":
            return x
        return round_bf16(x) if self.kv_dtype == "bf16" else round_int8(x, x.shape[-1])


def round_int8(x: np.ndarray, group: int) -> np.ndarray:
    """x with every `group` neighbours of its last axis as multiples, -127 to 127, of their largest / 127."""
    n = x.shape[-1]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -n % group)])
    groups = padded.reshape(*x.shape[:-1], -1, group)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 127
    rounded = np.rint(groups / np.where(scale == 0, 1, scale)) * scale
    return rounded.reshape(padded.shape)[..., :n]


def round_int8_by_powers(x: np.ndarray) -> np.ndarray:
    """x as multiples, -127 to 127, of its rows' largest / 127, or of that over a power of two up to 2^20, for each 32
    neighbours of the last axis the finest that they fit into."""
    n = x.shape[-1]
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -n % 32)])
    groups = padded.reshape(*x.shape[:-1], -1, 32)
    of_group = np.abs(groups).max(axis=-1, keepdims=True)
    of_row = of_group.max(axis=-2, keepdims=True)
    (row_mantissa, row_exponent), (mantissa, exponent) = np.frexp(of_row), np.frexp(of_group)
    finer = np.where(of_group == 0, 20, np.clip(row_exponent - exponent - (row_mantissa < mantissa), 0, 20))
    step = np.ldexp(of_row / 127, -finer)
    rounded = np.rint(groups / np.where(step == 0, 1, step)) * step
    return rounded.reshape(padded.shape)[..., :n]


def round_bf16(x: np.ndarray) -> np.ndarray:
    """x with 8 significant bits, ties to even."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


def _clipped_distances(n: int, reach: int) -> np.ndarray:
    """[n, n]: the column of a bias for each query and key."""
    return np.clip(np.arange(n) - np.arange(n)[:, None], -reach, reach) + reach


def _heads(x: np.ndarray, n_heads: int) -> np.ndarray:
    """[..., n_tokens, n_heads * head_dim] -> [..., n_heads, n_tokens, head_dim]"""
    return np.ascontiguousarray(x.reshape(*x.shape[:-1], n_heads, -1).swapaxes(-2, -3))


def _rows(heads: np.ndarray) -> np.ndarray:
    """The inverse of _heads."""
    x = heads.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)
