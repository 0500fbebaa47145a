"""Tiny llamas with random weights, written as a Hugging Face folder or as a GGUF file; no PyTorch needed.

Both writers return the weights as float32, rounded as the file rounds them, by Hugging Face's names without "model.".
The vocabulary is 256 bytes, then <|bos|>, <|eos|>, <|pad|>, then merges of two letters and, after those, unused tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

SPECIALS = ["<|bos|>", "<|eos|>", "<|pad|>"]
BOS, EOS, PAD = 256, 257, 258
CONTEXT = 512  # of the models that tests share (conftest.py)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SHARD_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Shape:
    """The sizes of a tiny llama; head_dim None is dim / n_heads."""

    dim: int
    ffn_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    head_dim: int | None = None

    @property
    def width(self) -> int:
        return self.head_dim or self.dim // self.n_heads


def write_hf_llama(
    folder: Path,
    *,
    dim: int = 48,
    ffn_dim: int = 80,
    n_layers: int = 2,
    n_heads: int = 3,
    n_kv_heads: int = 1,
    vocab_size: int = 259,
    seed: int = 0,
    dtype: str = "f32",
    tied: bool = True,
    bias: bool = False,
    qkv_bias: bool = False,
    head_dim: int | None = None,
    shards: int = 1,
    **config_overrides: object,
) -> dict[str, np.ndarray]:
    """Writes config.json, safetensors (dtype "f32", "f16" or "bf16") and tokenizer.json; returns the weights.

    qkv_bias: biases of q, k and v alone.
    """
    shape = Shape(dim, ffn_dim, n_layers, n_heads, n_kv_heads, vocab_size, head_dim)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**_hf_config(shape, tied, bias), **config_overrides}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer(vocab_size).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": SPECIALS[0], "eos_token": SPECIALS[1], "add_bos_token": False})
    )
    weights = _weights(shape, tied, _biased(bias, qkv_bias), seed)
    _write_shards(folder, weights, dtype, shards)
    return {name: _rounded(value, dtype) for name, value in weights.items()}


def write_gguf_llama(
    path: Path,
    *,
    dim: int = 64,
    ffn_dim: int = 96,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    vocab_size: int = 259,
    seed: int = 0,
    dtype: str = "q4_0",
    embed_dtype: str | None = None,
    tied: bool = True,
    bias: bool = False,
    qkv_bias: bool = False,
    head_dim: int | None = None,
    chat_template: str | None = None,
    metadata: dict[str, str | int | float | bool] | None = None,
    arch: str = "llama",
    rope_freqs: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Writes a GGUF file whose matrices are of `dtype` ("f32", "f16", "bf16", "q4_0", "q4_1" or "q8_0"), the embedding
    and the head of `embed_dtype`; returns the dequantised weights. `metadata` is added to the file's own.

    A matrix whose rows are no multiple of 32 becomes f16, as llama.cpp's quantiser has it. Vectors are f32.
    arch: "llama", whose q and k lie interleaved, or "qwen2". rope_freqs: divisors of rope's frequencies, float32.
    """
    shape = Shape(dim, ffn_dim, n_layers, n_heads, n_kv_heads, vocab_size, head_dim)
    writer = gguf.GGUFWriter(str(path), arch)
    _add_gguf_metadata(writer, shape)
    for key, value in (metadata or {}).items():
        kind = {str: "STRING", bool: "BOOL", int: "UINT32", float: "FLOAT32"}[type(value)]
        writer.add_key_value(key, value, gguf.GGUFValueType[kind])
    _add_gguf_tokenizer(writer, vocab_size, chat_template)
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs)
    architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[arch], n_layers)
    weights = _weights(shape, tied, _biased(bias, qkv_bias), seed)
    for name, value in weights.items():
        kind = (embed_dtype or dtype) if name.startswith(("embed_tokens", "lm_head")) else dtype
        kind = "f32" if value.ndim == 1 else "f16" if kind[0] == "q" and value.shape[1] % 32 else kind
        heads = {"q_proj": n_heads, "k_proj": n_kv_heads}.get(name.split(".")[-2]) if arch == "llama" else None
        raw = quantize(interleaved(value, heads) if heads else value, _number(kind))
        writer.add_tensor(names.get_name(hf_name(name), (".weight", ".bias")), raw, raw_dtype=_number(kind))
        weights[name] = _rounded(value, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """tensors: name -> (dtype as safetensors spells it, shape, little-endian bytes)."""
    header, end = {}, 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(raw for _, _, raw in tensors.values()))


def hf_name(name: str) -> str:
    """The name in a Hugging Face file."""
    return name if name.startswith("lm_head") else f"model.{name}"


def interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows from rotate-half order into the order of interleaved rope: the pairs (j, j + half) become neighbours."""
    half = weight.shape[0] // n_heads // 2
    return weight.reshape(n_heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def tokenizer(vocab_size: int):
    """A byte-level BPE `tokenizers.Tokenizer` of vocab_size tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = vocabulary(vocab_size)
    made = Tokenizer(models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return made


def vocabulary(vocab_size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The tokens by id, and the merges among them."""
    from tokenizers import pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + SPECIALS
    merges = [(a, b) for a in letters for b in letters][: vocab_size - len(tokens)]
    tokens += [a + b for a, b in merges]
    tokens += [f"<|unused_{id}|>" for id in range(len(tokens), vocab_size)]
    assert len(tokens) == vocab_size, f"a vocabulary has {len(tokens)} tokens at least"
    return tokens, merges


def _hf_config(shape: Shape, tied: bool, bias: bool) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn_dim,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.width,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": bias,
        "mlp_bias": bias,
        "tie_word_embeddings": tied,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "torch_dtype": "float32",
    }


def _biased(bias: bool, qkv_bias: bool) -> tuple[str, ...]:
    """Which projections have a bias."""
    return _PROJECTIONS if bias else _PROJECTIONS[:3] if qkv_bias else ()


def _weights(shape: Shape, tied: bool, biased: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    """Norms near one, matrices of variance 1/fan-in, so that activations keep their size through the layers."""
    rng = np.random.default_rng(seed)

    def normal(*dims: int) -> np.ndarray:
        return rng.normal(0, dims[-1] ** -0.5, dims).astype(np.float32)

    def norm() -> np.ndarray:
        return rng.normal(1, 0.1, shape.dim).astype(np.float32)

    q, kv = shape.n_heads * shape.width, shape.n_kv_heads * shape.width
    linear = {
        "self_attn.q_proj": (q, shape.dim),
        "self_attn.k_proj": (kv, shape.dim),
        "self_attn.v_proj": (kv, shape.dim),
        "self_attn.o_proj": (shape.dim, q),
        "mlp.gate_proj": (shape.ffn_dim, shape.dim),
        "mlp.up_proj": (shape.ffn_dim, shape.dim),
        "mlp.down_proj": (shape.dim, shape.ffn_dim),
    }
    weights = {"embed_tokens.weight": rng.normal(0, 0.5, (shape.vocab_size, shape.dim)).astype(np.float32)}
    for layer in range(shape.n_layers):
        prefix = f"layers.{layer}"
        weights[f"{prefix}.input_layernorm.weight"] = norm()
        weights[f"{prefix}.post_attention_layernorm.weight"] = norm()
        for part, dims in linear.items():
            weights[f"{prefix}.{part}.weight"] = normal(*dims)
            if part.split(".")[1] in biased:
                weights[f"{prefix}.{part}.bias"] = normal(dims[0])
    weights["norm.weight"] = norm()
    if not tied:
        weights["lm_head.weight"] = normal(shape.vocab_size, shape.dim)
    return weights


def _number(dtype: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[dtype.upper()]


def _rounded(value: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as they come back from a file of `dtype`."""
    return dequantize(quantize(value, _number(dtype)), _number(dtype)).astype(np.float32)


def _write_shards(folder: Path, weights: dict[str, np.ndarray], dtype: str, shards: int) -> None:
    tensors = {
        hf_name(name): (dtype.upper(), list(value.shape), quantize(value, _number(dtype)).tobytes())
        for name, value in weights.items()
    }
    if shards == 1:
        return write_safetensors(folder / "model.safetensors", tensors)
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file_name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        mine = names[shard::shards]
        weight_map.update(dict.fromkeys(mine, file_name))
        write_safetensors(folder / file_name, {name: tensors[name] for name in mine})
    (folder / _SHARD_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1))


def _add_gguf_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(2048)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.ffn_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.width)
    writer.add_value_length(shape.width)
    writer.add_rope_dimension_count(shape.width)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)


def _add_gguf_tokenizer(writer: gguf.GGUFWriter, vocab_size: int, chat_template: str | None) -> None:
    tokens, merges = vocabulary(vocab_size)
    unused = gguf.TokenType.UNUSED
    types = [gguf.TokenType.NORMAL if not token.startswith("<|unused") else unused for token in tokens]
    types[BOS : PAD + 1] = [gguf.TokenType.CONTROL] * 3
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges:
        writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
