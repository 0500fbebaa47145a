"""The numbers that shape a model, read from Hugging Face's JSON files or from GGUF metadata, and checked once."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import FormatError, Unsupported, shown
from .files import read_json
from .gguf import GGUFFile
from .models import ARCHITECTURES

_MAX_DIM = 1 << 20
_MAX_VOCAB = 1 << 22
_MAX_LAYERS = 10_000
_MAX_CONTEXT = 1 << 30


@dataclass(frozen=True)
class Config:
    """A model's shape and special ids.

    Every count is positive and bounded, n_kv_heads divides n_heads, head_dim is even, and every id is below vocab_size.
    tied: the output head is the token embedding. add_bos: the model expects bos_id before the first token.
    eos_ids: all ids that end a generation. attention_bias, mlp_bias: all projections of the kind have a bias.
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
    norm_eps: float
    context_length: int
    tied: bool
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def from_hf(cls, folder: Path) -> Config:
        """From config.json, and generation_config.json and tokenizer_config.json where they exist.

        Keys as in transformers' LlamaConfig (4 and 5), with its defaults. Raises FormatError, Unsupported.
        """
        fields = Fields(read_json(folder / "config.json"), "config.json")
        model_type = _model_type(fields, "model_type")
        fields.only("hidden_act", ("silu",), default="silu")
        fields.only("quantization_config", (None,))
        if fields.get("use_sliding_window") is not False:
            fields.only("sliding_window", (None,))
        dim = fields.integer("hidden_size", _MAX_DIM)
        n_heads = fields.integer("num_attention_heads", _MAX_DIM)
        vocab_size = fields.integer("vocab_size", _MAX_VOCAB)
        generation = _optional(folder, "generation_config.json")
        return cls(
            model_type=model_type,
            dim=dim,
            ffn_dim=fields.integer("intermediate_size", _MAX_DIM),
            n_layers=fields.integer("num_hidden_layers", _MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=_n_kv_heads(fields, "num_key_value_heads", n_heads),
            head_dim=_head_dim(fields, "head_dim", dim, n_heads),
            vocab_size=vocab_size,
            rope_theta=_hf_rope_theta(fields),
            norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
            context_length=fields.integer("max_position_embeddings", _MAX_CONTEXT, default=2048),
            tied=fields.boolean("tie_word_embeddings", default=False),
            bos_id=next(iter(fields.ids("bos_token_id", vocab_size)), None),
            eos_ids=_merged(fields.ids("eos_token_id", vocab_size), generation.ids("eos_token_id", vocab_size)),
            add_bos=_optional(folder, "tokenizer_config.json").boolean("add_bos_token", default=False),
            attention_bias=fields.boolean("attention_bias", default=False),
            mlp_bias=fields.boolean("mlp_bias", default=False),
        )

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Config:
        """From the metadata of a GGUF file, with llama.cpp's defaults. Raises FormatError, Unsupported."""
        fields = Fields(file.metadata, file.path.name)
        arch = _model_type(fields, "general.architecture")
        _refuse_gguf_variants(fields, arch)
        dim = fields.integer(f"{arch}.embedding_length", _MAX_DIM)
        n_heads = fields.integer(f"{arch}.attention.head_count", _MAX_DIM)
        head_dim = _head_dim(fields, f"{arch}.attention.key_length", dim, n_heads)
        fields.only(f"{arch}.attention.value_length", (head_dim,), default=head_dim)
        fields.only(f"{arch}.rope.dimension_count", (head_dim,), default=head_dim)
        vocab_size = _gguf_vocab_size(fields, arch)
        tokenizer = "tokenizer.ggml"
        return cls(
            model_type=arch,
            dim=dim,
            ffn_dim=fields.integer(f"{arch}.feed_forward_length", _MAX_DIM),
            n_layers=fields.integer(f"{arch}.block_count", _MAX_LAYERS),
            n_heads=n_heads,
            n_kv_heads=_n_kv_heads(fields, f"{arch}.attention.head_count_kv", n_heads),
            head_dim=head_dim,
            vocab_size=vocab_size,
            rope_theta=fields.number(f"{arch}.rope.freq_base", 1.0, math.inf, default=10_000.0),
            norm_eps=fields.number(f"{arch}.attention.layer_norm_rms_epsilon", 0.0, 1.0),
            context_length=fields.integer(f"{arch}.context_length", _MAX_CONTEXT),
            tied="output.weight" not in file.tensors,
            bos_id=next(iter(fields.ids(f"{tokenizer}.bos_token_id", vocab_size)), None),
            eos_ids=_merged(*(fields.ids(f"{tokenizer}.{kind}_token_id", vocab_size) for kind in ("eos", "eot"))),
            add_bos=fields.boolean(f"{tokenizer}.add_bos_token", default=fields.text(f"{tokenizer}.model") == "llama"),
            attention_bias="blk.0.attn_q.bias" in file.tensors,
            mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        )


class Fields:
    """Typed and bounded reads from an object of a file; errors name the file and the key. A null counts as absent."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = values
        self._where = where

    def place(self, key: str) -> str:
        return f"{self._where} {key}"

    def error(self, key: str, expected: str, found: object) -> FormatError:
        return FormatError(self.place(key), expected=expected, found=shown(found))

    def get(self, key: str) -> object:
        return self._values.get(key)

    def integer(self, key: str, high: int, default: int | None = None) -> int:
        """An integer from 1 to high; absent and without a default is an error."""
        value = self._present(key, default)
        if type(value) is not int or not 1 <= value <= high:  # bool is an int by inheritance
            raise self.error(key, f"an integer from 1 to {high}", value)
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number strictly between low and high."""
        value = self._present(key, default)
        if type(value) not in (int, float) or not low < value < high:
            raise self.error(key, f"a number between {low:g} and {high:g}", value)
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._present(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._present(key, default)
        if not isinstance(value, str):
            raise self.error(key, "a string", value)
        return value

    def ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """Token ids: absent is none, an integer one, a list many."""
        value = self.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        for one in values:
            if type(one) is not int or not 0 <= one < vocab_size:
                raise self.error(key, f"token ids below vocab_size {vocab_size}", one)
        return tuple(values)

    def only(self, key: str, allowed: tuple[object, ...], default: object = None) -> None:
        """Refuses, as Unsupported, what would compute something else than jiffy does."""
        value = self._present(key, default)
        if not any(value == one for one in allowed if type(value) is type(one)):
            expected = " or ".join(shown(one) for one in allowed)
            raise Unsupported(self.place(key), expected=expected, found=shown(value))

    def inner(self, key: str) -> Fields:
        """The object at `key`; empty where there is none."""
        value = self._present(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "an object", value)
        return Fields(value, self.place(key))

    def _present(self, key: str, default: object) -> object:
        value = self.get(key)
        return default if value is None else value


def _optional(folder: Path, name: str) -> Fields:
    path = folder / name
    return Fields(read_json(path) if os.path.exists(path) else {}, name)


def _merged(*ids: tuple[int, ...]) -> tuple[int, ...]:
    """All ids once, in order."""
    return tuple(dict.fromkeys(one for some in ids for one in some))


def _model_type(fields: Fields, key: str) -> str:
    model_type = fields.text(key)
    if model_type not in ARCHITECTURES:
        expected = f"one of {', '.join(ARCHITECTURES)}"
        raise Unsupported(fields.place(key), expected=expected, found=shown(model_type))
    return model_type


def _head_dim(fields: Fields, key: str, dim: int, n_heads: int) -> int:
    if fields.get(key) is None and dim % n_heads:
        raise fields.error(key, f"it given, or a width that {n_heads} heads divide", dim)
    head_dim = fields.integer(key, _MAX_DIM, default=dim // n_heads)
    if head_dim % 2:
        raise fields.error(key, "an even number, for rope", head_dim)
    return head_dim


def _n_kv_heads(fields: Fields, key: str, n_heads: int) -> int:
    n_kv_heads = fields.integer(key, _MAX_DIM, default=n_heads)
    if n_heads % n_kv_heads:
        raise fields.error(key, f"a divisor of the {n_heads} heads", n_kv_heads)
    return n_kv_heads


def _hf_rope_theta(fields: Fields) -> float:
    """transformers 5 keeps rope's numbers in rope_parameters, 4 some of them in rope_scaling."""
    rope = fields.inner("rope_parameters" if fields.get("rope_parameters") is not None else "rope_scaling")
    for key in ("rope_type", "type"):
        rope.only(key, ("default",), default="default")
    for some in (rope, fields):
        some.only("partial_rotary_factor", (1, 1.0), default=1.0)
    theta = fields.number("rope_theta", 1.0, math.inf, default=10_000.0)
    return rope.number("rope_theta", 1.0, math.inf, default=theta)


def _refuse_gguf_variants(fields: Fields, arch: str) -> None:
    fields.only(f"{arch}.rope.scaling.type", ("none",), default="none")
    fields.only(f"{arch}.rope.scaling.factor", (1.0, 0.0), default=1.0)  # 0 means "not set"
    fields.only(f"{arch}.rope.scale_linear", (1.0,), default=1.0)
    fields.only(f"{arch}.attention.sliding_window", (0,), default=0)
    fields.only(f"{arch}.attention.causal", (True,), default=True)
    fields.only(f"{arch}.expert_count", (0,), default=0)


def _gguf_vocab_size(fields: Fields, arch: str) -> int:
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        raise fields.error("tokenizer.ggml.tokens", "an array of strings", tokens)
    key = f"{arch}.vocab_size"
    vocab_size = fields.integer(key, _MAX_VOCAB, default=len(tokens))
    if vocab_size != len(tokens):
        raise fields.error(key, f"{len(tokens)}, the number of tokens", vocab_size)
    return vocab_size
