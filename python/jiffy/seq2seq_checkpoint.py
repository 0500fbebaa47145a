"""An encoder-decoder on disk: a config and tensors under one set of names, whatever the container.

Ours: embed_tokens, lm_head, logits; of each side (encoder, decoder) positions, relative_bias, embed_norm, final_norm;
SIDE.layers.N.self_attn.(q, k, v, o, norm), .cross_attn.(the same) and .ffn.(up, gate, down, norm); of recurrent units
decoder.layers.N.rnn.(forget, x, norm).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .checkpoint import Checkpoint
from .errors import FormatError
from .named_files import FilesOfFolder
from .safetensors import read_safetensors_folder
from .seq2seq_config import Seq2SeqConfig, Stack
from .tensor_entry import TensorEntry

_LAYER = re.compile(r"(encoder|decoder)\.layers\.([0-9]+)\.(\w+)\.(\w+)")
_BART_PARTS = {
    "self_attn": {**{part: f"self_attn.{part}_proj" for part in "qkv"}, "o": "self_attn.out_proj"},
    "cross_attn": {**{part: f"encoder_attn.{part}_proj" for part in "qkv"}, "o": "encoder_attn.out_proj"},
    "ffn": {"up": "fc1", "down": "fc2", "norm": "final_layer_norm"},
}
_BART_PARTS["self_attn"]["norm"] = "self_attn_layer_norm"
_BART_PARTS["cross_attn"]["norm"] = "encoder_attn_layer_norm"
_BART_SIDE = {"positions": "embed_positions", "embed_norm": "layernorm_embedding", "final_norm": "layer_norm"}
_T5_BLOCKS = {"self_attn": "SelfAttention", "cross_attn": "EncDecAttention", "ffn": "DenseReluDense"}


def open_seq2seq(folder: Path) -> Checkpoint:
    """Opens a Hugging Face folder (config.json, safetensors); an output matrix and its bias are there if the file has
    them. Raises FormatError, Unsupported."""
    config = Seq2SeqConfig.from_hf(folder)
    named = read_safetensors_folder(folder)
    tensors: dict[str, TensorEntry] = {}
    for name, shape, optional in wanted_tensors(config):
        theirs = list(_names_in_files(config, name))
        entry = next((named[one] for one in theirs if one in named), None)
        if entry is not None:
            tensors[name] = _checked(entry, name, shape)
        elif not optional:
            raise FormatError(theirs[0], expected=str(shape), found="no such tensor")
    return Checkpoint(folder, config, tensors, FilesOfFolder(folder))


def _checked(entry: TensorEntry, name: str, shape: list[int]) -> TensorEntry:
    theirs = [one for one in entry.shape if one != 1] if name == "logits.bias" else list(entry.shape)
    if theirs != shape:
        raise FormatError(entry.name, expected=str(shape), found=str(list(entry.shape)))
    if entry.dtype not in ("f32", "f16", "bf16"):
        raise FormatError(entry.name, expected="numbers in f32, f16 or bf16", found=entry.dtype)
    return replace(entry, name=name, shape=tuple(shape))


def wanted_tensors(c: Seq2SeqConfig) -> Iterator[tuple[str, list[int], bool]]:
    """Every tensor of a model of this config, its shape, and whether it may be missing. Linear layers are [out, in]."""
    yield "embed_tokens.weight", [c.vocab_size, c.dim], False
    yield "lm_head.weight", [c.vocab_size, c.dim], True
    yield "logits.bias", [c.vocab_size], True
    for side, stack in (("encoder", c.encoder), ("decoder", c.decoder)):
        if c.positions == "learned":
            yield f"{side}.positions.weight", [c.n_positions + c.position_offset, c.dim], False
        if c.n_buckets:
            yield f"{side}.relative_bias.weight", [c.n_buckets, stack.n_heads], False
        if c.embed_norm:
            yield from _norm(c, f"{side}.embed_norm")
        if c.final_norm:
            yield from _norm(c, f"{side}.final_norm")
        for layer in range(stack.n_layers):
            yield from _layer(c, side, stack, layer)


def _layer(c: Seq2SeqConfig, side: str, stack: Stack, layer: int) -> Iterator[tuple[str, list[int], bool]]:
    at, width = f"{side}.layers.{layer}", stack.n_heads * c.head_dim
    attentions = ["self_attn", "cross_attn"] if side == "decoder" else ["self_attn"]
    if c.ssru and side == "decoder":
        attentions = ["cross_attn"]
        yield from _linear(c, f"{at}.rnn.forget", [c.dim, c.dim])
        yield f"{at}.rnn.x.weight", [c.dim, c.dim], False
        yield from _norm(c, f"{at}.rnn.norm")
    for attention in attentions:
        for part in "qkv":
            yield from _linear(c, f"{at}.{attention}.{part}", [width, c.dim])
        yield from _linear(c, f"{at}.{attention}.o", [c.dim, width])
        yield from _norm(c, f"{at}.{attention}.norm")
    for part in ("up", "gate") if c.gated else ("up",):
        yield from _linear(c, f"{at}.ffn.{part}", [stack.ffn_dim, c.dim])
    yield from _linear(c, f"{at}.ffn.down", [c.dim, stack.ffn_dim])
    yield from _norm(c, f"{at}.ffn.norm")


def _linear(c: Seq2SeqConfig, name: str, shape: list[int]) -> Iterator[tuple[str, list[int], bool]]:
    yield f"{name}.weight", shape, False
    if c.model_type != "t5":
        yield f"{name}.bias", shape[:1], False


def _norm(c: Seq2SeqConfig, name: str) -> Iterator[tuple[str, list[int], bool]]:
    yield f"{name}.weight", [c.dim], False
    if not c.rms:
        yield f"{name}.bias", [c.dim], False


def _names_in_files(c: Seq2SeqConfig, name: str) -> Iterator[str]:
    """What a file may call a tensor of ours, the likeliest first."""
    part, kind = name.rsplit(".", 1)
    t5 = c.model_type == "t5"
    if part == "embed_tokens":
        prefix = "" if t5 else "model."
        yield from (f"{prefix}{one}.{kind}" for one in ("shared", "encoder.embed_tokens", "decoder.embed_tokens"))
        return
    if part == "lm_head":
        yield name
        return
    if part == "logits":
        yield "final_logits_bias"
        return
    yield f"{_t5_name(c, part) if t5 else _bart_name(part)}.{kind}"


def _bart_name(part: str) -> str:
    match = _LAYER.fullmatch(part)
    if match is None:
        side, own = part.split(".")
        return f"model.{side}.{_BART_SIDE[own]}"
    side, layer, block, own = match.groups()
    return f"model.{side}.layers.{layer}.{_BART_PARTS[block][own]}"


def _t5_name(c: Seq2SeqConfig, part: str) -> str:
    match = _LAYER.fullmatch(part)
    if match is None:
        side, own = part.split(".")
        if own == "final_norm":
            return f"{side}.final_layer_norm"
        return f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
    side, layer, block, own = match.groups()
    index = {"self_attn": 0, "cross_attn": 1, "ffn": 2 if side == "decoder" else 1}[block]
    at = f"{side}.block.{layer}.layer.{index}"
    if own == "norm":
        return f"{at}.layer_norm"
    theirs = {"up": "wi_1" if c.gated else "wi", "gate": "wi_0", "down": "wo"}.get(own, own)
    return f"{at}.{_T5_BLOCKS[block]}.{theirs}"
