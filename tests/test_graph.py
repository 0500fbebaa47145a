"""Traced programs of a few ops, run by the engine, against float64."""

from __future__ import annotations

from math import erfc

import numpy as np
import pytest

import jiffy
from compare import assert_same
from jiffy import _core
from jiffy.graph import Trace
from jiffy.reference import reference_logits
from jiffy.weights import rotate

POOL = _core.ThreadPool(2)
VOCAB, DIM = 40, 52
IDS = list(range(0, VOCAB, 3))


def table(rows: int, cols: int, seed: int) -> _core.Weight:
    return packed(np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32), "f32")


def packed(values: np.ndarray, fmt: str) -> _core.Weight:
    weight = _core.Weight("table", *values.shape, fmt)
    weight.pack_rows(0, values.view(np.uint8), "f32", POOL)
    return weight


def logits(program: _core.Program, isa: str) -> np.ndarray:
    return _core.Engine(program, POOL, isa=isa, context=64, max_batch=1, prefill_chunk=5).logits(IDS)


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x / 2 * np.vectorize(erfc)(-x / np.sqrt(2))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm_and_gelu(approximate: str, biased: bool):
    rng = np.random.default_rng(3)
    w, b = (rng.normal(size=DIM).astype(np.float32) for _ in range(2))
    embedding, head = table(VOCAB, DIM, 1), table(VOCAB, DIM, 2)
    trace = Trace()
    x = trace.embedding(embedding)
    y = trace.gelu(trace.layer_norm(x, w, b if biased else None, 1e-5), approximate)
    program = trace.build(trace.linear(trace.select(y), head), context_length=64)
    assert program.ops == ["embedding", "layer_norm", "gelu", "select", "matmul"]
    x = embedding.unpack()[IDS].astype(np.float64)
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w + b * biased
    y, h = gelu(normed, approximate), head.unpack().astype(np.float64)
    # Of a few eps of a number near 4 at most that gelu passes on, and of a dot product of 52 of them.
    bound = 2.0**-24 * (64 * np.abs(h).sum(1) + (DIM + 16) * np.abs(y) @ np.abs(h).T)
    got = [logits(program, isa) for isa in jiffy.isas()]
    assert (np.abs(got[0] - y @ h.T) <= bound).all()
    for other in [logits(program.fused(), "auto"), *got[1:]]:
        assert_same(other, got[0])


def test_gelu_has_two_forms():
    trace = Trace()
    with pytest.raises(jiffy.ParameterError, match='approximate: expected none or tanh, found "sigmoid"'):
        trace.gelu(trace.embedding(table(4, 4, 0)), "sigmoid")


def test_rotation_spreads_what_is_far_larger_than_the_rest():
    """Where each 128 inputs hold one that is 50 times the others, int8 groups of 128 lose less than half as much."""
    rng = np.random.default_rng(4)
    x, w = (rng.normal(size=(VOCAB, 256)).astype(np.float32) for _ in range(2))
    x[:, [7, 200]] *= 50
    errors = []
    for rotated in (False, True):
        trace = Trace()
        y = trace.select(trace.embedding(packed(x, "f32")))
        weight = packed(rotate(w) if rotated else w, "i8")
        program = trace.build(trace.mark("logits", trace.linear(y, weight, None, rotated)), 64)
        assert program.ops == ["embedding", "select", "rotate_quantize" if rotated else "quantize", "matmul"]
        got = logits(program, "auto")
        expected = reference_logits(trace, IDS)  # of these weights, with activations as they are
        np.testing.assert_allclose(expected, x[IDS] @ w.T, rtol=0, atol=0.02 * np.abs(expected).max())
        for isa in jiffy.isas():
            assert_same(logits(program.fused(), isa), got)
        errors.append(np.sqrt(np.mean((got - expected) ** 2)))
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(("width", "weights", "message"), [(130, "i8", "multiple of 128"), (128, "bf16", "q8 rows")])
def test_rows_that_can_not_be_rotated(width: int, weights: str, message: str):
    trace = Trace()
    y = trace.select(trace.embedding(table(VOCAB, width, 1)))
    head = packed(np.ones((VOCAB, width), np.float32), weights)
    with pytest.raises(jiffy.FormatError, match=message):
        trace.build(trace.linear(y, head, None, rotated=True), 64)
