"""Tiny encoder-decoders with random weights, written as Hugging Face folders by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers as hf

import tiny

VOCAB = 300
START = tiny.PAD
_SIZES = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "bos_token_id": tiny.BOS,
    "eos_token_id": tiny.EOS,
    "pad_token_id": tiny.PAD,
    "decoder_start_token_id": START,
}
_T5 = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 16, "d_ff": 40, "num_layers": 2, "num_heads": 3}
_T5 |= {name: _SIZES[name] for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id")}
# name: (config's class, model's class, what differs from its defaults, the tokenizer's class)
MODELS = {
    "marian": (
        hf.MarianConfig,
        hf.MarianMTModel,
        {**_SIZES, "activation_function": "swish", "scale_embedding": True, "forced_eos_token_id": tiny.EOS},
        "MarianTokenizer",
    ),
    "bart": (
        hf.BartConfig,
        hf.BartForConditionalGeneration,
        {**_SIZES, "forced_bos_token_id": tiny.BOS, "forced_eos_token_id": tiny.EOS},
        "BartTokenizer",
    ),
    "mbart": (
        hf.MBartConfig,
        hf.MBartForConditionalGeneration,
        {**_SIZES, "scale_embedding": True},
        "MBart50Tokenizer",
    ),
    "m2m_100": (
        hf.M2M100Config,
        hf.M2M100ForConditionalGeneration,
        {**_SIZES, "pad_token_id": 1, "encoder_layers": 1},
        "NllbTokenizer",
    ),
    "t5": (
        hf.T5Config,
        hf.T5ForConditionalGeneration,
        {**_T5, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
        "T5Tokenizer",
    ),
    "t5_gated": (
        hf.T5Config,
        hf.T5ForConditionalGeneration,
        {**_T5, "num_heads": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        "T5Tokenizer",
    ),
}


def write_seq2seq(folder: Path, name: str, seed: int = 0, **more: object) -> hf.PreTrainedModel:
    """Writes config.json, generation_config.json, safetensors and a tokenizer; returns the model."""
    config_class, model_class, options, tokenizer_class = MODELS[name]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**options, **more})).eval()
    with torch.no_grad():
        for part, values in model.named_parameters():
            values.copy_(_drawn(part, values))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    model.save_pretrained(folder)
    tiny.tokenizer(VOCAB).save(str(folder / "tokenizer.json"))
    own = {"bos_token": tiny.SPECIALS[0], "eos_token": tiny.SPECIALS[1], "tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    return model_class.from_pretrained(folder, attn_implementation="eager").eval()


def _drawn(part: str, values: torch.Tensor) -> torch.Tensor:
    """Norms near one, matrices that let every part of a layer matter; sinusoids stay."""
    if not values.requires_grad:
        return values
    if values.ndim == 1:
        return 1 + 0.1 * torch.randn_like(values) if part.endswith("norm.weight") else 0.3 * torch.randn_like(values)
    is_table = "embed" in part or "shared" in part or "relative" in part
    return torch.randn_like(values) * (0.3 if is_table else 2 * values.shape[-1] ** -0.5)
