"""A model on disk, whatever its container: a config, tensors under one set of names, and a tokenizer's source.

Names are Hugging Face's, without the leading "model."; they are mapped here and nowhere else. Only the heads of files
are read: `TensorEntry.read_rows` fetches the weights piece by piece.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import _core
from .config import Config
from .errors import FormatError, Unsupported
from .gguf import read_gguf
from .named_files import FilesOfFolder, NamedFiles
from .safetensors import read_safetensors_folder
from .tensor_entry import TensorEntry

if TYPE_CHECKING:
    from .packed_config import AnyConfig

__all__ = ["Checkpoint", "TensorEntry", "open_checkpoint"]

_GGUF_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_NAME = re.compile(r"(?:blk\.([0-9]+)\.)?(\w+)\.(weight|bias)")
_LAYER_NAME = re.compile(r"(layers|blk)\.[0-9]+\.")
# Tables of rope angles, which old converters stored and every runtime computes.
_IGNORED = re.compile(r"layers\.[0-9]+\.self_attn\.rotary_emb\.inv_freq|layers\.[0-9]+\.attn_rot_embd\.weight")


@dataclass(frozen=True)
class Checkpoint:
    """A checked model of any family: `tensors` holds every tensor that `config` asks for, in its shape, and no other.

    text: the files of a Hugging Face folder, or the metadata of a GGUF file, which have the tokenizer. weights: the
    format that matrices are packed in where nobody asks for another; None for what the files hold.
    """

    path: Path
    config: AnyConfig
    tensors: Mapping[str, TensorEntry]
    text: NamedFiles | Mapping[str, object]
    weights: str | None = None


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a .gguf file or a Hugging Face folder (config.json, safetensors, tokenizer.json).

    Raises FormatError for what is damaged, missing or contradictory; Unsupported for what jiffy can't run.
    """
    path = Path(path)
    if os.path.isfile(path) and _core.is_packed(os.fsencode(path)):
        expected = "the file or folder that it was packed from"
        raise Unsupported(
            str(path), expected=expected, found="a packed file, which has only what became of its weights"
        )
    return _open_folder(path) if os.path.isdir(path) else _open_gguf(path)


def _open_folder(folder: Path) -> Checkpoint:
    config = Config.from_hf(folder)
    named = _unique((entry.name.removeprefix("model."), entry) for entry in read_safetensors_folder(folder).values())
    if config.tied and "lm_head.weight" in named:
        config = replace(config, tied=False)  # equal to the embedding or not, the file's own head is right
    return Checkpoint(folder, config, _checked(config, named), FilesOfFolder(folder))


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        if name in file.tensors:
            raise Unsupported(f"{path.name} {name}", expected="no LongRoPE", found="a table of its factors")
    config = Config.from_gguf(file)
    named = _unique((_hf_name(entry.name), entry) for entry in file.tensors.values())
    tensors = {name: _turned(config, entry) for name, entry in _checked(config, named).items()}
    return Checkpoint(path, config, tensors, file.metadata)


def _hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `layers.3.self_attn.q_proj.weight`; an unknown part stays as it is."""
    match = _GGUF_NAME.fullmatch(name)
    if match is None:
        return name
    layer, part, kind = match.groups()
    prefix = "" if layer is None else f"layers.{layer}."
    return f"{prefix}{_GGUF_NAMES.get(part, part)}.{kind}"


def _turned(config: Config, entry: TensorEntry) -> TensorEntry:
    """Llama's GGUF files alone hold q and k for interleaved rope (as llama.cpp's converter permutes them)."""
    if config.model_type != "llama":
        return entry
    heads = {"q_proj": config.n_heads, "k_proj": config.n_kv_heads}.get(entry.name.split(".")[-2], 0)
    return replace(entry, interleaved_heads=heads)


def _unique(pairs: Iterable[tuple[str, TensorEntry]]) -> dict[str, TensorEntry]:
    named: dict[str, TensorEntry] = {}
    for name, entry in pairs:
        if name in named:
            where = f"{entry.path.name} {entry.name}"
            raise FormatError(where, expected="one tensor of a name", found=f"{named[name].name} too")
        named[name] = entry
    return {name: replace(entry, name=name) for name, entry in named.items()}


def _expected_shapes(config: Config) -> Iterator[tuple[str, list[int]]]:
    """Every tensor that a model of this config has: linear layers are [out, in]."""
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    linear = {
        "self_attn.q_proj": ([q_dim, config.dim], config.attention_bias),
        "self_attn.k_proj": ([kv_dim, config.dim], config.attention_bias),
        "self_attn.v_proj": ([kv_dim, config.dim], config.attention_bias),
        "self_attn.o_proj": ([config.dim, q_dim], config.output_bias),
        "mlp.gate_proj": ([config.ffn_dim, config.dim], config.mlp_bias),
        "mlp.up_proj": ([config.ffn_dim, config.dim], config.mlp_bias),
        "mlp.down_proj": ([config.dim, config.ffn_dim], config.mlp_bias),
    }
    yield "embed_tokens.weight", [config.vocab_size, config.dim]
    for layer in range(config.n_layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"layers.{layer}.{norm}.weight", [config.dim]
        for part, (shape, has_bias) in linear.items():
            yield f"layers.{layer}.{part}.weight", shape
            if has_bias:
                yield f"layers.{layer}.{part}.bias", shape[:1]
    yield "norm.weight", [config.dim]
    if not config.tied:
        yield "lm_head.weight", [config.vocab_size, config.dim]


def _checked(config: Config, named: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """The tensors that config asks for. A tensor that belongs to a layer and isn't asked for is an error, since leaving
    it out would change what the model computes; others (a second head, say) are left alone."""
    tensors: dict[str, TensorEntry] = {}
    for name, shape in _expected_shapes(config):
        entry = named.get(name)
        if entry is None:
            raise FormatError(name, expected=str(shape), found="no such tensor")
        if list(entry.shape) != shape:
            raise FormatError(name, expected=str(shape), found=str(list(entry.shape)))
        if len(shape) == 1 and entry.dtype not in ("f32", "f16", "bf16"):
            raise FormatError(name, expected="a vector of f32, f16 or bf16", found=entry.dtype)
        tensors[name] = entry
    for name, entry in named.items():
        if name not in tensors and _LAYER_NAME.match(name) and not _IGNORED.fullmatch(name):
            expected = f"no such tensor in a {config.model_type} of {config.n_layers} layers"
            raise FormatError(name, expected=expected, found=str(list(entry.shape)))
    return tensors
