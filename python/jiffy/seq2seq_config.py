"""The numbers that shape an encoder-decoder, read from Hugging Face's JSON files and checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from .config import MAX_DIM, MAX_LAYERS, MAX_VOCAB
from .errors import Unsupported, shown
from .fields import Fields
from .files import read_json
from .rope_config import MAX_CONTEXT

SEQ2SEQ = ("marian", "t5", "bart", "mbart", "m2m_100")
_ACTIVATIONS = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# What transformers assumes where config.json has no such key.
_BART = {
    "vocab_size": 50265,
    "d_model": 1024,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "scale_embedding": False,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
_DEFAULTS: dict[str, dict[str, object]] = {
    "bart": {**_BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    "mbart": {**_BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    "m2m_100": {
        **_BART,
        "vocab_size": 128112,
        "decoder_start_token_id": 2,
        "activation_function": "relu",
        "scale_embedding": True,
    },
    "marian": {
        **_BART,
        "vocab_size": 58101,
        "pad_token_id": 58100,
        "eos_token_id": 0,
        "decoder_start_token_id": 58100,
        "forced_eos_token_id": 0,
    },
    "t5": {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
    },
}
# What files may ask of a generation and nobody does here, with the values that ask for nothing.
_NEUTRAL = {
    "do_sample": (False,),
    "repetition_penalty": (1.0, 1),
    "encoder_repetition_penalty": (1.0, 1),
    "encoder_no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0, 0),
}
_T5_CONTEXT = 8192  # it has no table of positions; what memory is set aside for
_MOST_BEAMS = 64  # what a file may ask for: as many as a batch has by default


@dataclass(frozen=True)
class Stack:
    """The encoder or the decoder."""

    n_layers: int
    n_heads: int
    ffn_dim: int


@dataclass(frozen=True)
class Generation:
    """How the model's files say that it is used: fields of SamplingParams, and whether these are known at all."""

    fields: dict[str, object] = field(default_factory=dict)
    max_length: int | None = None  # tokens of an answer


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The shape of an encoder-decoder and its special ids.

    head_dim: of all heads. pre_norm: norms stand before attention and MLP, not behind their sums. embed_norm: the
    embeddings are normalised; final_norm: so is what a stack gives. rms: norms are RMSNorm. positions: "learned",
    "sinusoidal" or "" (a bias of attention by relative position, in n_buckets up to max_distance).
    position_offset: rows of the table before that of the first position; period: of sinusoids, see
    `models.seq2seq.sinusoids`. gated: the MLP multiplies two projections. ssru: the decoder has recurrent units in the
    place of self-attention. zero_id: an id whose embedding is zeros, which the files' table has no row for, or None.
    context_length: positions of a source, and of a target.
    """

    model_type: str
    dim: int
    head_dim: int
    encoder: Stack
    decoder: Stack
    vocab_size: int
    context_length: int
    n_positions: int
    norm_eps: float
    activation: str
    decoder_start_id: int
    eos_ids: tuple[int, ...]
    pre_norm: bool = False
    embed_norm: bool = False
    final_norm: bool = False
    rms: bool = False
    positions: str = ""
    position_offset: int = 0
    period: str = "half"
    n_buckets: int = 0
    max_distance: int = 0
    gated: bool = False
    ssru: bool = False
    embed_scale: float = 1.0
    attention_scale: float | None = None
    head_scale: float = 1.0
    zero_id: int | None = None
    generation: Generation = Generation()

    @property
    def usual_context(self) -> int:
        return self.context_length

    @classmethod
    def from_hf(cls, folder: Path) -> Seq2SeqConfig:
        """From config.json, and generation_config.json where it exists. Raises FormatError, Unsupported."""
        values = read_json(folder / "config.json")
        model_type = Fields(values, "config.json").text("model_type")
        if model_type not in SEQ2SEQ:
            expected = "one of " + ", ".join(SEQ2SEQ)
            raise Unsupported("config.json model_type", expected=expected, found=shown(model_type))
        given = {name: value for name, value in values.items() if value is not None}
        fields = Fields({**_DEFAULTS[model_type], **given}, "config.json")
        fields.only("quantization_config", (None,))
        return (_t5 if model_type == "t5" else _bart)(fields, model_type, _generation(folder, values))


def is_seq2seq(path: Path) -> bool:
    """Whether a path is the folder of a model that `Seq2SeqConfig` speaks of. Raises FormatError for a bad config."""
    if not (path / "config.json").is_file():
        return False
    return read_json(path / "config.json").get("model_type") in SEQ2SEQ


def _bart(fields: Fields, model_type: str, more: Fields) -> Seq2SeqConfig:
    dim, vocab_size = fields.integer("d_model", MAX_DIM), fields.integer("vocab_size", MAX_VOCAB)
    stacks = [
        Stack(
            fields.integer(f"{side}_layers", MAX_LAYERS),
            fields.integer(f"{side}_attention_heads", MAX_DIM),
            fields.integer(f"{side}_ffn_dim", MAX_DIM),
        )
        for side in ("encoder", "decoder")
    ]
    if stacks[0].n_heads != stacks[1].n_heads or dim % stacks[0].n_heads:
        place = fields.place("decoder_attention_heads")
        expected = f"the {stacks[0].n_heads} heads of the encoder, which divide {dim}"
        raise Unsupported(place, expected=expected, found=str(stacks[1].n_heads))
    fields.only("decoder_vocab_size", (vocab_size,), default=vocab_size)
    fields.only("share_encoder_decoder_embeddings", (True,), default=True)
    n_positions = fields.integer("max_position_embeddings", MAX_CONTEXT)
    sinusoidal = model_type in ("marian", "m2m_100")
    pre_norm = model_type in ("mbart", "m2m_100")
    if sinusoidal and dim % 2:
        raise fields.error("d_model", "an even number, for sinusoids", dim)
    return Seq2SeqConfig(
        model_type=model_type,
        dim=dim,
        head_dim=dim // stacks[0].n_heads,
        encoder=stacks[0],
        decoder=stacks[1],
        vocab_size=vocab_size,
        context_length=n_positions,
        n_positions=n_positions,
        norm_eps=1e-5,
        activation=_activation(fields, "activation_function"),
        pre_norm=pre_norm,
        embed_norm=model_type in ("bart", "mbart"),
        final_norm=pre_norm,
        positions="sinusoidal" if sinusoidal else "learned",
        position_offset={"marian": 0, "m2m_100": fields.integer("pad_token_id", vocab_size, low=0) + 1}.get(
            model_type, 2
        ),
        period="dim" if model_type == "marian" else "half",
        embed_scale=dim**0.5 if fields.boolean("scale_embedding", default=False) else 1.0,
        **_ids(fields, more, vocab_size),
    )


def _t5(fields: Fields, model_type: str, more: Fields) -> Seq2SeqConfig:
    vocab_size, dim = fields.integer("vocab_size", MAX_VOCAB), fields.integer("d_model", MAX_DIM)
    n_heads, ffn_dim = fields.integer("num_heads", MAX_DIM), fields.integer("d_ff", MAX_DIM)
    n_layers = fields.integer("num_layers", MAX_LAYERS)
    gate, _, name = fields.text("feed_forward_proj").rpartition("-")
    if gate not in ("", "gated") or name not in _ACTIVATIONS:
        place = fields.place("feed_forward_proj")
        expected = "one of " + ", ".join(_ACTIVATIONS) + ', or one behind "gated-"'
        raise Unsupported(place, expected=expected, found=shown(fields.get("feed_forward_proj")))
    # What the head is tied to says nothing any more: transformers 5 writes it down apart, older files have no such key.
    scaled = fields.boolean("scale_decoder_outputs", default=fields.boolean("tie_word_embeddings", default=True))
    return Seq2SeqConfig(
        model_type=model_type,
        dim=dim,
        head_dim=fields.integer("d_kv", MAX_DIM),
        encoder=Stack(n_layers, n_heads, ffn_dim),
        decoder=Stack(fields.integer("num_decoder_layers", MAX_LAYERS, default=n_layers), n_heads, ffn_dim),
        vocab_size=vocab_size,
        context_length=_T5_CONTEXT,
        n_positions=0,
        norm_eps=fields.number("layer_norm_epsilon", 0.0, 1.0),
        activation="gelu_tanh" if (gate, name) == ("gated", "gelu") else _ACTIVATIONS[name],
        pre_norm=True,
        final_norm=True,
        rms=True,
        n_buckets=fields.integer("relative_attention_num_buckets", 1 << 12, low=2),
        max_distance=fields.integer("relative_attention_max_distance", 1 << 20, low=2),
        gated=gate == "gated",
        attention_scale=1.0,
        head_scale=dim**-0.5 if scaled else 1.0,
        **_ids(fields, more, vocab_size),
    )


def _activation(fields: Fields, key: str) -> str:
    name = fields.text(key)
    if name not in _ACTIVATIONS:
        raise Unsupported(fields.place(key), expected="one of " + ", ".join(_ACTIVATIONS), found=shown(name))
    return _ACTIVATIONS[name]


def _generation(folder: Path, config: dict[str, object]) -> Fields:
    """generation_config.json; in old folders such keys stand in config.json."""
    name = "generation_config.json"
    values = read_json(folder / name) if os.path.exists(folder / name) else config
    return Fields({key: value for key, value in values.items() if value is not None}, name)


def _ids(fields: Fields, more: Fields, vocab_size: int) -> dict[str, object]:
    """Special ids, and how the model is used. What the generation's file says comes first."""
    start = (*more.ids("decoder_start_token_id", vocab_size), *fields.ids("decoder_start_token_id", vocab_size))
    eos = more.ids("eos_token_id", vocab_size) or fields.ids("eos_token_id", vocab_size)
    if not start:
        raise fields.error("decoder_start_token_id", "a token id", None)
    forced = {
        name: ids[0]
        for name in ("forced_bos_token_id", "forced_eos_token_id")
        if (ids := more.ids(name, vocab_size) or fields.ids(name, vocab_size))
    }
    return {"decoder_start_id": start[0], "eos_ids": eos, "generation": _usage(more, forced, vocab_size)}


def _usage(more: Fields, forced: dict[str, object], vocab_size: int) -> Generation:
    for name, neutral in _NEUTRAL.items():
        more.only(name, neutral, default=neutral[0])
    chosen: dict[str, object] = dict(forced)
    chosen["n_beams"] = more.integer("num_beams", _MOST_BEAMS, default=1)
    chosen["length_penalty"] = more.number("length_penalty", -1000.0, 1000.0, default=1.0)
    chosen["no_repeat_ngram_size"] = more.integer("no_repeat_ngram_size", MAX_CONTEXT, default=0, low=0)
    stopping = more.get("early_stopping")
    if stopping is not None and not isinstance(stopping, bool) and stopping != "never":
        raise more.error("early_stopping", 'true, false or "never"', stopping)
    chosen["early_stopping"] = stopping or False
    least = more.integer("min_length", MAX_CONTEXT, default=0, low=0) - 1  # which counts the decoder's start
    chosen["min_tokens"] = max(least, more.integer("min_new_tokens", MAX_CONTEXT, default=0, low=0))
    runs = more.get("bad_words_ids") or []
    if not isinstance(runs, list) or not all(isinstance(run, list) and run for run in runs):
        raise more.error("bad_words_ids", "lists of token ids", runs)
    for run in runs:
        Fields({"bad_words_ids": run}, "generation_config.json").ids("bad_words_ids", vocab_size)
    chosen["bad_words_ids"] = tuple(map(tuple, runs))
    most = more.integer("max_length", MAX_CONTEXT, default=0, low=0) - 1
    most = more.integer("max_new_tokens", MAX_CONTEXT, default=max(most, 0), low=0)
    return Generation(chosen, most or None)
