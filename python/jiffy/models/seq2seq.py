"""Encoder-decoders: Marian, BART, mBART, M2M-100 and NLLB (Vaswani et al. 2017 and after), and T5 (Raffel et al. 2019).

Two programs over one set of weights. The encoder ends in the keys and values of the decoder's cross-attention, for all
layers at once; the decoder attends to them beside its own tokens. Marian's students have a recurrent unit in the place
of the decoder's self-attention. What differs stands in the config.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .relative_bias import bidirectional_bias, causal_bias

if TYPE_CHECKING:
    from .. import _core
    from ..graph import Node, Trace
    from ..seq2seq_config import Seq2SeqConfig
    from ..weights import Weights


@dataclass(frozen=True)
class Seq2SeqWeights:
    """Weights by our names, and those that both programs read."""

    w: Weights
    table: _core.Weight


def encoder(t: Trace, c: Seq2SeqConfig, weights: Seq2SeqWeights, context: int) -> Node:
    """Token ids -> the keys and values of each layer of the decoder [n_tokens, n_layers * 2 * n_heads * head_dim]."""
    w = weights.w.at("encoder")
    x = t.mark("encoder.embeddings", _embedded(t, c, w, weights, context))
    bias = bidirectional_bias(w.table("relative_bias.weight"), c.max_distance) if c.n_buckets else None
    for i in range(c.encoder.n_layers):
        layer = w.at(f"layers.{i}")
        x = _sublayer(t, c, x, layer.at("self_attn"), lambda y, own: _attention(t, c, y, own, 0, False, bias))
        x = _sublayer(t, c, x, layer.at("ffn"), lambda y, own: _ffn(t, c, y, own))
        t.mark(f"encoder.layers.{i}", x)
    if c.final_norm:
        x = _norm(t, c, x, w.at("final_norm"))
    names = [f"decoder.layers.{i}.cross_attn.{part}" for i in range(c.decoder.n_layers) for part in "kv"]
    return t.mark("keys and values", t.linear(t.select(x), *weights.w.stacked(names)))


def decoder(t: Trace, c: Seq2SeqConfig, weights: Seq2SeqWeights, context: int) -> Node:
    """Token ids -> logits [n_outputs, vocab_size]."""
    w = weights.w.at("decoder")
    x = t.mark("decoder.embeddings", _embedded(t, c, w, weights, context))
    bias = causal_bias(w.table("relative_bias.weight"), c.max_distance) if c.n_buckets else None
    for i in range(c.decoder.n_layers):
        layer = w.at(f"layers.{i}")
        if c.ssru:
            x = _sublayer(t, c, x, layer.at("rnn"), lambda y, own, i=i: _ssru(t, y, own, i))
        else:
            own_attention = lambda y, own, i=i: _attention(t, c, y, own, i, True, bias)  # noqa: E731
            x = _sublayer(t, c, x, layer.at("self_attn"), own_attention)
        x = _sublayer(t, c, x, layer.at("cross_attn"), lambda y, own, i=i: _cross_attention(t, c, y, own, i))
        x = _sublayer(t, c, x, layer.at("ffn"), lambda y, own: _ffn(t, c, y, own))
        t.mark(f"decoder.layers.{i}", x)
    x = t.select(x)
    if c.final_norm:
        x = _norm(t, c, x, w.at("final_norm"), c.head_scale)
    table = weights.w.matrix("lm_head.weight") if weights.w.has("lm_head.weight") else weights.table
    return t.mark("logits", t.linear(x, table, weights.w.bias("logits")))


def sinusoids(n: int, dim: int, period: str) -> np.ndarray:
    """float32 [n, dim]: sines of position * frequency, then cosines. The frequencies go from 1 down by equal factors;
    period "half": to 1 / 10000, "dim": to almost that, 10000 ^ (-i / (dim / 2))."""
    half = dim // 2
    steps = half if period == "dim" else max(half - 1, 1)
    angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(half) / steps)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def _embedded(t: Trace, c: Seq2SeqConfig, w: Weights, weights: Seq2SeqWeights, context: int) -> Node:
    x = t.embedding(weights.table, scale=c.embed_scale)
    if c.positions:
        if c.positions == "learned":
            table = w.table("positions.weight")[c.position_offset :]
        else:
            table = sinusoids(c.position_offset + context, c.dim, c.period)[c.position_offset :]
        x = t.add(x, t.embedding(np.ascontiguousarray(table), by="positions"))
    return _norm(t, c, x, w.at("embed_norm")) if c.embed_norm else x


def _sublayer(t: Trace, c: Seq2SeqConfig, x: Node, w: Weights, part: Callable[[Node, Weights], Node]) -> Node:
    if c.pre_norm:
        return t.add(x, part(_norm(t, c, x, w.at("norm")), w))
    return _norm(t, c, t.add(x, part(x, w)), w.at("norm"))


def _norm(t: Trace, c: Seq2SeqConfig, x: Node, w: Weights, scale: float = 1.0) -> Node:
    """scale: of the result."""
    if c.rms:
        return t.rms_norm(x, w.vector("weight") * np.float32(scale), c.norm_eps)
    return t.layer_norm(x, w.vector("weight"), w.vector("bias"), c.norm_eps)


def _attention(
    t: Trace, c: Seq2SeqConfig, x: Node, w: Weights, layer: int, causal: bool, bias: np.ndarray | None
) -> Node:
    """The encoder's layers share the memory of one."""
    q, k, v = (t.linear(x, *w.linear(name)) for name in "qkv")
    n_heads = q.width // c.head_dim
    shape = {"layer": layer, "n_heads": n_heads, "n_kv_heads": n_heads}
    y = t.attention(q, k, v, causal=causal, scale=c.attention_scale, bias=bias, **shape)
    return t.linear(y, *w.linear("o"))


def _cross_attention(t: Trace, c: Seq2SeqConfig, x: Node, w: Weights, layer: int) -> Node:
    q = t.linear(x, *w.linear("q"))
    y = t.cross_attention(q, layer=layer, n_heads=c.decoder.n_heads, scale=c.attention_scale)
    return t.linear(y, *w.linear("o"))


def _ssru(t: Trace, x: Node, w: Weights, layer: int) -> Node:
    forget, own = (t.linear(x, *w.linear(name)) for name in ("forget", "x"))
    return t.ssru(forget, own, layer=layer)


def _ffn(t: Trace, c: Seq2SeqConfig, x: Node, w: Weights) -> Node:
    if not c.gated:
        return t.linear(t.activation(t.linear(x, *w.linear("up")), c.activation), *w.linear("down"))
    gate = t.activation(t.linear(x, *w.linear("gate")), c.activation)
    return t.linear(t.mul(gate, t.linear(x, *w.linear("up"))), *w.linear("down"))
