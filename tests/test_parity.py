"""With float32 weights jiffy computes what transformers computes, up to the rounding of float32 sums; with bfloat16
weights, up to the rounding of what they are multiplied with, too."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf.quants import dequantize

import jiffy
import tiny
from compare import assert_close, assert_same
from jiffy.checkpoint import open_checkpoint
from reference import SHARE, greedy, random_ids, reference, reference_logits

# What differs from tiny's defaults: dim 48, ffn 80, 2 layers, 3 heads of 16, 1 KV head, 259 tokens, tied, no biases.
SHAPES = {
    "plain": {},
    "heads_3x20": {"dim": 60, "ffn_dim": 45, "n_kv_heads": 3},
    "heads_6_over_2": {"dim": 72, "ffn_dim": 100, "n_heads": 6, "n_kv_heads": 2, "tied": False},
    "heads_5_over_1": {"dim": 50, "ffn_dim": 33, "n_heads": 5, "n_kv_heads": 1, "tied": False},
    "heads_20_over_1": {"dim": 40, "ffn_dim": 7, "n_heads": 20, "n_kv_heads": 1, "head_dim": 6},
    "one_head_of_2": {"dim": 9, "ffn_dim": 1, "n_heads": 1, "head_dim": 2, "n_layers": 1},
    "wide_head": {"dim": 64, "ffn_dim": 128, "n_heads": 2, "n_kv_heads": 2, "head_dim": 130},
    "deep": {"dim": 37, "n_layers": 9, "n_heads": 1, "head_dim": 10},
    "biases": {"bias": True, "dim": 60, "ffn_dim": 45},
    "larger_vocabulary": {"vocab_size": 1003, "tied": False},
}
CONFIGS = {
    "attention_bias_alone": {"bias": True, "mlp_bias": False},
    "rope_theta": {"rope_theta": 1e6},
    "rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 250.0}},
    "norm_eps": {"rms_norm_eps": 0.5},
}
FILES = {"bf16": {"dtype": "bf16"}, "f16": {"dtype": "f16", "tied": False}, "shards": {"shards": 3, "tied": False}}


def write(folder, options: dict[str, object]) -> None:
    """A tiny llama; without mlp_bias its file has no such tensors."""
    weights = tiny.write_hf_llama(folder, **options)
    if options.get("mlp_bias") is False:
        kept = {name: value for name, value in weights.items() if not ("mlp" in name and name.endswith("bias"))}
        raw = {tiny.hf_name(name): ("F32", list(value.shape), value.tobytes()) for name, value in kept.items()}
        tiny.write_safetensors(folder / "model.safetensors", raw)


@pytest.mark.parametrize(
    "options", [*SHAPES.values(), *CONFIGS.values(), *FILES.values()], ids=[*SHAPES, *CONFIGS, *FILES]
)
def test_tiny_model(tmp_path, options):
    """Odd sizes, every option of the config, every kind of file; prompts of 1 token and of 700, over several chunks."""
    write(tmp_path, options)
    model, expected = jiffy.load(tmp_path, weights="f32"), reference(tmp_path)
    for n in (1, 700):
        ids = random_ids(n, options.get("vocab_size", 259))
        assert_close(model.logits(ids), reference_logits(expected, ids), SHARE, f"{n} tokens")


@pytest.mark.parametrize("isa", jiffy.isas())
def test_every_instruction_set(tmp_path, isa):
    write(tmp_path, SHAPES["heads_6_over_2"])
    ids = random_ids(100)
    model = jiffy.load(tmp_path, weights="f32", isa=isa, prefill_chunk=37)
    assert_close(model.logits(ids), reference_logits(reference(tmp_path), ids), SHARE)


def round_linear_inputs(model) -> None:
    """From now on, every matmul of the reference has inputs that are bfloat16 numbers, and sums in float32."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: inputs[0].bfloat16().float())


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Of the root mean squares."""
    return float(np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("isa", jiffy.isas())
@pytest.mark.parametrize("name", ["plain", "heads_6_over_2", "one_head_of_2", "deep", "biases"])
def test_bf16_weights(tmp_path, name, isa):
    """A bfloat16 file keeps its weights, and the activations that meet them are rounded.

    Rounding is off by up to 2^-8 for a number between 1 and 2, evenly spread: 2^-8 / sqrt(3) beside numbers of 1.5,
    0.15 %. Four matmuls of a layer, one behind the other, and the head add up to sqrt(4 n_layers + 1) times that. A
    reference that rounds at the same places leaves little of it: activations so near the middle between two bfloat16
    numbers that the rounding of float32 sums decides.
    """
    options = SHAPES[name]
    write(tmp_path, {"dtype": "bf16", **options})
    model = jiffy.load(tmp_path, kv_dtype="f32", isa=isa, prefill_chunk=37)
    assert list(model.info()["formats"]) == ["bf16"]
    ids = random_ids(200)
    got, expected = model.logits(ids), reference(tmp_path)
    likely = 2**-8 / 3**0.5 / 1.5 * (4 * options.get("n_layers", 2) + 1) ** 0.5
    assert relative_error(got, reference_logits(expected, ids)) < 1.5 * likely
    round_linear_inputs(expected)
    assert relative_error(got, reference_logits(expected, ids)) < 0.5 * likely


@pytest.mark.parametrize("name", SHAPES)
def test_gguf_is_the_folder(tmp_path, name):
    """The same float32 weights from both containers give the same bits: q and k come out of their interleaved order."""
    options = SHAPES[name]
    defaults = {"dim": 48, "ffn_dim": 80, "n_heads": 3, "n_kv_heads": 1}
    tiny.write_hf_llama(tmp_path / "folder", **options)
    tiny.write_gguf_llama(tmp_path / "a.gguf", dtype="f32", **(defaults | options))
    ids = random_ids(70, options.get("vocab_size", 259))
    folder, file = (jiffy.load(tmp_path / path).logits(ids) for path in ("folder", "a.gguf"))
    assert_same(file, folder)


@pytest.mark.parametrize("name", ["heads_3x20", "heads_6_over_2", "biases"])
def test_greedy_tokens(tmp_path, name):
    write(tmp_path, SHAPES[name])
    ids = random_ids(20)
    expected = greedy(reference(tmp_path), ids, 50)
    completion = jiffy.load(tmp_path, weights="f32").generate(token_ids=ids, max_tokens=50, ignore_eos=True)
    assert completion.token_ids == expected


def smollm2_reference(path):
    """SmolLM2 in transformers: dequantised by the gguf library, q and k un-permuted here, not by jiffy."""
    c = open_checkpoint(path).config
    config = transformers.LlamaConfig(
        hidden_size=c.dim,
        intermediate_size=c.ffn_dim,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        vocab_size=c.vocab_size,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        rms_norm_eps=c.norm_eps,
        max_position_embeddings=c.context_length,
        tie_word_embeddings=True,
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.n_layers)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in transformers.LlamaForCausalLM(config).named_parameters()}
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    state = {}
    for name, shape in shapes.items():
        tensor = tensors.pop(names.get_name(name, (".weight", ".bias")))
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
        heads = {"q_proj": c.n_heads, "k_proj": c.n_kv_heads}.get(name.split(".")[-2])
        state[name] = torch.from_numpy(rotate_half_order(values, heads) if heads else values)
    assert not tensors, f"tensors that the reference has no place for: {list(tensors)}"
    return reference(None, config=config, state_dict=state)


def rotate_half_order(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of each head from (0, half, 1, half + 1, ...) back to (0, 1, ...)."""
    return np.concatenate([part for head in np.split(weight, n_heads) for part in (head[0::2], head[1::2])])


def test_smollm2(smollm2_path, botchan_text):
    model = jiffy.load(smollm2_path, weights="f32")
    ids = model.tokenizer.encode(botchan_text)[:300]
    assert_close(model.logits(ids), reference_logits(smollm2_reference(smollm2_path), ids), SHARE)
