"""The numbers that shape a model, read from Hugging Face's JSON files or from GGUF metadata, and checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import Unsupported, shown
from .fields import Fields
from .files import read_json
from .gguf import GGUFFile
from .models import ARCHITECTURES
from .rope import RopeScaling
from .rope_config import MAX_CONTEXT, gguf_rope, hf_rope

# What transformers assumes where config.json has no such key; null is something else to it, and to us.
_HF_DEFAULTS: dict[str, dict[str, object]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {
        "max_position_embeddings": 32_768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
}
_GGUF_ARCHITECTURES = ("llama", "qwen2")  # llama.cpp's converter turns mistral into llama

MAX_DIM = 1 << 20
MAX_VOCAB = 1 << 22
MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Config:
    """A model's shape and special ids.

    Every count is positive and bounded, n_kv_heads divides n_heads, head_dim is even, and every id is below vocab_size.
    tied: the output head is the token embedding. (Whether a text begins with bos_id is the tokenizer's to say.)
    eos_ids: all ids that end a generation. rope_scaling: how rope's frequencies differ from those of rope_theta.
    windows: for each layer how many positions a token sees, itself and those before it; 0 for all. attention_bias: q, k
    and v have a bias; output_bias: the attention's output projection; mlp_bias: all projections of the MLP.
    """

    model_type: str
    dim: int
    ffn_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    rope_scaling: RopeScaling
    norm_eps: float
    context_length: int
    windows: tuple[int, ...]
    tied: bool
    bos_id: int | None
    eos_ids: tuple[int, ...]
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool

    @property
    def usual_context(self) -> int:
        """Positions, unless somebody asks for fewer or more."""
        return self.context_length

    @classmethod
    def from_hf(cls, folder: Path) -> Config:
        """From config.json, and generation_config.json where it exists.

        Keys as in the configs of transformers (4 and 5), with their defaults. Raises FormatError, Unsupported.
        """
        fields = _hf_fields(folder)
        model_type = fields.text("model_type")
        fields.only("hidden_act", ("silu",), default="silu")
        fields.only("quantization_config", (None,))
        dim = fields.integer("hidden_size", MAX_DIM)
        n_layers = fields.integer("num_hidden_layers", MAX_LAYERS)
        n_heads = fields.integer("num_attention_heads", MAX_DIM)
        head_dim = _head_dim(fields, "head_dim", dim, n_heads)
        vocab_size = fields.integer("vocab_size", MAX_VOCAB)
        context_length = fields.integer("max_position_embeddings", MAX_CONTEXT)
        theta, scaling = hf_rope(fields, head_dim, context_length)
        generation = _optional(folder, "generation_config.json")
        return cls(
            model_type=model_type,
            dim=dim,
            ffn_dim=fields.integer("intermediate_size", MAX_DIM),
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=_n_kv_heads(fields, "num_key_value_heads", n_heads),
            head_dim=head_dim,
            vocab_size=vocab_size,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
            context_length=min(scaling.reach(context_length), MAX_CONTEXT),
            windows=_hf_windows(fields, model_type, n_layers),
            tied=fields.boolean("tie_word_embeddings", default=False),
            bos_id=next(iter(fields.ids("bos_token_id", vocab_size)), None),
            eos_ids=_merged(fields.ids("eos_token_id", vocab_size), generation.ids("eos_token_id", vocab_size)),
            **_hf_biases(fields, model_type),
        )

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Config:
        """From the metadata of a GGUF file, with llama.cpp's defaults. Raises FormatError, Unsupported."""
        fields = Fields(file.metadata, file.path.name)
        arch = _one_of(fields, "general.architecture", _GGUF_ARCHITECTURES)
        own = fields.below(f"{arch}.")
        _refuse_gguf_variants(own)
        dim = own.integer("embedding_length", MAX_DIM)
        n_layers = own.integer("block_count", MAX_LAYERS)
        n_heads = own.integer("attention.head_count", MAX_DIM)
        head_dim = _head_dim(own, "attention.key_length", dim, n_heads)
        own.only("attention.value_length", (head_dim,), default=head_dim)
        own.only("rope.dimension_count", (head_dim,), default=head_dim)
        vocab_size = _gguf_vocab_size(fields, own)
        context_length = own.integer("context_length", MAX_CONTEXT)
        theta, scaling = gguf_rope(file, fields, head_dim, context_length)
        tokenizer = fields.below("tokenizer.ggml.")
        return cls(
            model_type=arch,
            dim=dim,
            ffn_dim=own.integer("feed_forward_length", MAX_DIM),
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=_n_kv_heads(own, "attention.head_count_kv", n_heads),
            head_dim=head_dim,
            vocab_size=vocab_size,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_eps=own.number("attention.layer_norm_rms_epsilon", 0.0, 1.0),
            context_length=min(scaling.reach(context_length), MAX_CONTEXT),
            windows=(own.integer("attention.sliding_window", MAX_CONTEXT, default=0, low=0),) * n_layers,
            tied="output.weight" not in file.tensors,
            bos_id=next(iter(tokenizer.ids("bos_token_id", vocab_size)), None),
            eos_ids=_merged(*(tokenizer.ids(f"{kind}_token_id", vocab_size) for kind in ("eos", "eot"))),
            attention_bias=arch == "qwen2" or "blk.0.attn_q.bias" in file.tensors,
            output_bias="blk.0.attn_output.bias" in file.tensors,
            mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        )


def _hf_fields(folder: Path) -> Fields:
    """config.json over the defaults of its model type."""
    values = read_json(folder / "config.json")
    model_type = _one_of(Fields(values, "config.json"), "model_type", ARCHITECTURES)
    return Fields({**_HF_DEFAULTS.get(model_type, {}), **values}, "config.json")


def _optional(folder: Path, name: str) -> Fields:
    path = folder / name
    return Fields(read_json(path) if os.path.exists(path) else {}, name)


def _merged(*ids: tuple[int, ...]) -> tuple[int, ...]:
    """All ids once, in order."""
    return tuple(dict.fromkeys(one for some in ids for one in some))


def _one_of(fields: Fields, key: str, values: Iterable[str]) -> str:
    value = fields.text(key)
    if value not in values:
        raise Unsupported(fields.place(key), expected=f"one of {', '.join(values)}", found=shown(value))
    return value


def _head_dim(fields: Fields, key: str, dim: int, n_heads: int) -> int:
    if fields.get(key) is None and dim % n_heads:
        raise fields.error(key, f"it given, or a width that {n_heads} heads divide", dim)
    head_dim = fields.integer(key, MAX_DIM, default=dim // n_heads)
    if head_dim % 2:
        raise fields.error(key, "an even number, for rope", head_dim)
    return head_dim


def _n_kv_heads(fields: Fields, key: str, n_heads: int) -> int:
    n_kv_heads = fields.integer(key, MAX_DIM, default=n_heads)
    if n_heads % n_kv_heads:
        raise fields.error(key, f"a divisor of the {n_heads} heads", n_kv_heads)
    return n_kv_heads


def _hf_windows(fields: Fields, model_type: str, n_layers: int) -> tuple[int, ...]:
    """`layer_types` says which layers see a window, else all of mistral's do, and qwen2's from max_window_layers on."""
    used = fields.boolean("use_sliding_window", default=model_type != "qwen2")
    if used and model_type == "llama":
        fields.only("sliding_window", (None,))  # transformers' llama would ignore it
    named = used and fields.get("sliding_window") is not None
    window = fields.integer("sliding_window", MAX_CONTEXT) if named else 0
    if fields.get("layer_types") is not None:
        return _windows_by_type(fields, window, n_layers)
    first = fields.integer("max_window_layers", MAX_LAYERS, default=0, low=0)
    return tuple(window if layer >= first else 0 for layer in range(n_layers))


def _windows_by_type(fields: Fields, window: int, n_layers: int) -> tuple[int, ...]:
    layer_types = fields.get("layer_types")
    if not isinstance(layer_types, list) or len(layer_types) != n_layers:
        raise fields.error("layer_types", f"a list of {n_layers}, the number of layers", layer_types)
    for one in layer_types:
        if one not in ("full_attention", "sliding_attention"):
            place = fields.place("layer_types")
            raise Unsupported(place, expected='"full_attention" or "sliding_attention"', found=shown(one))
    if "sliding_attention" in layer_types and not window:
        raise fields.error("sliding_window", "the window that layer_types speaks of", fields.get("sliding_window"))
    return tuple(window if one == "sliding_attention" else 0 for one in layer_types)


def _hf_biases(fields: Fields, model_type: str) -> dict[str, bool]:
    """Only llama's config speaks of biases: qwen2 has its own, mistral none."""
    if model_type != "llama":
        return {"attention_bias": model_type == "qwen2", "output_bias": False, "mlp_bias": False}
    attention = fields.boolean("attention_bias", default=False)
    mlp = fields.boolean("mlp_bias", default=False)
    return {"attention_bias": attention, "output_bias": attention, "mlp_bias": mlp}


def _refuse_gguf_variants(own: Fields) -> None:
    own.only("attention.sliding_window_pattern", (None,))
    own.only("attention.causal", (True,), default=True)
    own.only("expert_count", (0,), default=0)


def _gguf_vocab_size(fields: Fields, own: Fields) -> int:
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise fields.error("tokenizer.ggml.tokens", "an array of strings", tokens)
    vocab_size = own.integer("vocab_size", MAX_VOCAB, default=len(tokens))
    if vocab_size != len(tokens):
        raise own.error("vocab_size", f"{len(tokens)}, the number of tokens", vocab_size)
    return vocab_size
