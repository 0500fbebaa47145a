"""Llama (Touvron et al. 2023) and its many namesakes: RMSNorm, rope, grouped-query attention, SwiGLU.

Mistral (Jiang et al. 2023) adds a sliding window, Qwen2 (Yang et al. 2024) biases of q, k and v. What differs stands in
the config and in which tensors there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..rope import RopeTables
from .blocks import gated_mlp, self_attention

if TYPE_CHECKING:
    from ..config import Config
    from ..graph import Node, Trace
    from ..weights import Weights


def llama(t: Trace, c: Config, w: Weights, context: int) -> Node:
    """Token ids -> logits [n_outputs, vocab_size]."""
    rope = RopeTables.make(context, c.head_dim, c.rope_theta, c.rope_scaling)
    table = w.matrix("embed_tokens.weight")
    x = t.mark("embed_tokens", t.embedding(table))
    for i in range(c.n_layers):
        layer = w.at(f"layers.{i}")
        normed = t.rms_norm(x, layer.vector("input_layernorm.weight"), c.norm_eps)
        x = t.add(x, self_attention(t, normed, c, layer.at("self_attn"), rope, layer=i))
        normed = t.rms_norm(x, layer.vector("post_attention_layernorm.weight"), c.norm_eps)
        x = t.mark(f"layers.{i}", t.add(x, gated_mlp(t, normed, layer.at("mlp"))))
    x = t.rms_norm(t.select(x), w.vector("norm.weight"), c.norm_eps)
    return t.mark("logits", t.linear(x, table if c.tied else w.matrix("lm_head.weight")))
