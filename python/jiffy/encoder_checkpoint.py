"""An encoder on disk: a config, tensors under our names (`encoder_names`), and a tokenizer's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .checkpoint import Checkpoint
from .encoder_config import EncoderConfig
from .encoder_names import NAMES
from .errors import FormatError
from .named_files import FilesOfFolder
from .safetensors import read_safetensors_folder
from .sentence_config import Embedding
from .tensor_entry import TensorEntry

_LAYER = re.compile(r"layers\.([0-9]+)\.(\w+)")
_OLD_NORM = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class _Wanted:
    """A tensor of ours. rows: which ones of the file's, where it holds several of ours in one."""

    name: str
    shape: list[int]
    rows: tuple[int, int] | None = None  # (begin, all that there are)


def open_encoder(folder: Path) -> Checkpoint:
    """Opens a Hugging Face folder (config.json, safetensors). Raises FormatError, Unsupported."""
    config = replace(EncoderConfig.from_hf(folder), embedding=Embedding.of(folder))
    named = {_modern(name): entry for name, entry in read_safetensors_folder(folder).items()}
    tensors = {wanted.name: _found(config, named, wanted) for wanted in _wanted(config)}
    return Checkpoint(folder, config, tensors, FilesOfFolder(folder))


def _modern(name: str) -> str:
    for old, new in _OLD_NORM.items():
        name = name.replace(old, new)
    return name


def _found(config: EncoderConfig, named: Mapping[str, TensorEntry], wanted: _Wanted) -> TensorEntry:
    names = list(_names_in_files(config, wanted.name))
    entry = next((named[name] for name in names if name in named), None)
    if entry is None:
        raise FormatError(names[0], expected=str(wanted.shape), found="no such tensor")
    shape = list(wanted.shape)
    if wanted.rows is not None:
        shape[0] = wanted.rows[1]
    if list(entry.shape) != shape:
        raise FormatError(entry.name, expected=str(shape), found=str(list(entry.shape)))
    if entry.dtype not in ("f32", "f16", "bf16"):
        raise FormatError(entry.name, expected="numbers in f32, f16 or bf16", found=entry.dtype)
    if wanted.rows is not None:
        entry = entry.part(wanted.rows[0], wanted.rows[0] + wanted.shape[0])
    return replace(entry, name=wanted.name)


def _names_in_files(config: EncoderConfig, name: str) -> Iterator[str]:
    """What a file may call a tensor of ours, the likeliest first."""
    names = NAMES[config.model_type]
    part, kind = name.rsplit(".", 1)
    if part.startswith("head."):
        for theirs in names.heads[config.head.task][part.removeprefix("head.")]:
            yield f"{theirs}.{kind}"
        return
    match = _LAYER.fullmatch(part)
    theirs = names.body[part if match is None else f"layers.N.{match[2]}"]
    if match is not None:
        group, inner = divmod(int(match[1]), config.n_inner)
        theirs = theirs.replace(".N.", f".{match[1]}.").replace(".G.", f".{group}.").replace(".I.", f".{inner}.")
    yield f"{names.prefix}.{theirs}.{kind}"
    yield f"{theirs}.{kind}"


def _wanted(c: EncoderConfig) -> Iterator[_Wanted]:
    """Every tensor that an encoder of this config has: linear layers are [out, in]."""
    yield _Wanted("embed_tokens.weight", [c.vocab_size, c.embedding_dim])
    if c.n_positions:
        n = c.n_positions - c.position_offset
        yield _Wanted("positions.weight", [n, c.embedding_dim], (c.position_offset, c.n_positions))
    if c.n_types:
        yield _Wanted("token_types.weight", [c.n_types, c.embedding_dim])
    if c.n_buckets:
        yield _Wanted("relative_bias.weight", [c.n_buckets, c.n_heads])
    yield from _norm(c, "embed_norm", c.embedding_dim)
    if c.projected:
        yield from _linear("embed_projection", [c.dim, c.embedding_dim])
    for layer in sorted(set(c.weights_of)):
        yield from _layer(c, layer)
    if c.rope_thetas:
        yield from _norm(c, "final_norm", c.dim)
    yield from _head(c)


def _layer(c: EncoderConfig, layer: int) -> Iterator[_Wanted]:
    at, d, f = f"layers.{layer}", c.dim, c.ffn_dim
    attention, mlp = "attention" in c.biases, "mlp" in c.biases
    if not (c.rope_thetas and layer == 0):  # modernbert's first layer begins without
        yield from _norm(c, f"{at}.attention_norm", d)
    yield from _norm(c, f"{at}.mlp_norm", d)
    for i, part in enumerate("qkv"):
        yield from _linear(f"{at}.{part}", [d, d], attention, (i * d, 3 * d) if c.rope_thetas else None)
    yield from _linear(f"{at}.o", [d, d], attention)
    if c.rope_thetas:
        yield from _linear(f"{at}.gate", [f, d], mlp, (0, 2 * f))
    yield from _linear(f"{at}.up", [f, d], mlp, (f, 2 * f) if c.rope_thetas else None)
    yield from _linear(f"{at}.down", [d, f], mlp)


def _head(c: EncoderConfig) -> Iterator[_Wanted]:
    head = c.head
    if not head.task:
        return
    inner = c.embedding_dim if head.task == "mask" else c.dim
    if head.activation:
        yield from _linear("head.dense", [inner, c.dim], "head" in c.biases)
    if head.norm:
        yield from _norm(c, "head.norm", inner)
    if head.task == "mask":
        if not c.tied:
            yield _Wanted("head.out.weight", [c.vocab_size, inner])
        if not c.rope_thetas or "decoder" in c.biases:
            yield _Wanted("head.out.bias", [c.vocab_size])
        return
    yield from _linear("head.out", [len(head.labels), inner])


def _linear(name: str, shape: list[int], bias: bool = True, rows: tuple[int, int] | None = None) -> Iterator[_Wanted]:
    yield _Wanted(f"{name}.weight", shape, rows)
    if bias:
        yield _Wanted(f"{name}.bias", shape[:1], rows)


def _norm(c: EncoderConfig, name: str, width: int) -> Iterator[_Wanted]:
    yield from _linear(name, [width], "norm" in c.biases)
