"""Fusion changes how many instructions there are, and no bit of what they compute."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

import jiffy
import tiny
from compare import assert_same
from jiffy import _core
from jiffy.checkpoint import open_checkpoint
from jiffy.graph import Trace
from jiffy.models import architecture
from jiffy.reference import reference_logits
from jiffy.weights import Packing, Weights

ODD = {"dim": 148, "ffn_dim": 203, "n_heads": 6, "n_kv_heads": 2, "head_dim": 22}
IDS = np.random.default_rng(0).integers(0, 256, 90).tolist()
CONTEXT = 128

# One layer of a llama, all of its matrices in one quantised format.
ATTENTION = ["rms_norm_quantize", "matmul", "rope_kv_write", "attention", "quantize", "matmul"]
QUANTISED_LAYER = [*ATTENTION, "rms_norm_quantize", "gate_up", "quantize", "matmul"]
QUANTISED_END = ["select", "rms_norm_quantize", "matmul"]
# Float matrices need no quantised activations.
FLOAT_LAYER = ["rms_norm", "matmul", "rope_kv_write", "attention", "matmul", "rms_norm", "gate_up", "matmul"]


@dataclass(frozen=True)
class Mixed(Packing):
    """A format for each kind of matrix."""

    by_kind: dict[str, str] = field(default_factory=dict)  # a part of the tensor's name -> format

    def format_of(self, entry) -> str:
        return next((name for kind, name in self.by_kind.items() if kind in entry.name), super().format_of(entry))


class Apart(Weights):
    """Packs gate and up each in memory of its own."""

    def linear_pair(self, first: str, second: str):
        return self.linear(first), self.linear(second)


def traced(path, packing: Packing, weights: type[Weights] = Weights) -> tuple[_core.Program, Trace]:
    checkpoint = open_checkpoint(path)
    trace = Trace()
    named = weights(checkpoint.tensors, packing)
    result = architecture(checkpoint.config.model_type)(trace, checkpoint.config, named, CONTEXT)
    return trace.build(result, CONTEXT), trace


def logits(program: _core.Program, isa: str = "auto") -> np.ndarray:
    engine = _core.Engine(program, _core.ThreadPool(2), isa=isa, context=CONTEXT, max_batch=1, prefill_chunk=37)
    return engine.logits(IDS)


def fused_ops(path, weights: str | None) -> list[str]:
    return traced(path, Packing(_core.ThreadPool(1), weights))[0].fused().ops


@pytest.mark.parametrize("isa", jiffy.isas())
@pytest.mark.parametrize("weights", ["f32", "bf16", "i4", "i4g64a", "i8", "i8g32a"])
def test_same_bits(tmp_path, weights, isa):
    tiny.write_hf_llama(tmp_path, **ODD)
    options = {"weights": weights, "isa": isa, "context": CONTEXT, "prefill_chunk": 37}
    expected, got = (jiffy.load(tmp_path, fuse=fuse, **options).logits(IDS) for fuse in (False, True))
    assert_same(got, expected)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q4_0", "q4_1", "q8_0"])
@pytest.mark.parametrize(
    "options",
    [{}, {"weights": "i4", "head": "i8"}, {"head": "i4g128"}, {"weights": "i4", "head": "bf16"}],
    ids=["file", "i4_i8", "head", "i4_bf16"],
)
def test_same_bits_of_mixed_gguf(tmp_path, dtype, options):
    """The down projection's rows are no multiple of 32, so that it is float16 in the file beside quantised matrices."""
    tiny.write_gguf_llama(tmp_path / "a.gguf", dtype=dtype, embed_dtype="q8_0", ffn_dim=100, tied=False)
    options = {"context": CONTEXT, **options}
    expected, got = (jiffy.load(tmp_path / "a.gguf", fuse=fuse, **options).logits(IDS) for fuse in (False, True))
    assert_same(got, expected)


def test_same_tokens_of_a_batch(tmp_path):
    tiny.write_hf_llama(tmp_path, **ODD)
    prompts = [IDS[i : 3 * i + 1] for i in range(12)]
    asked = {"max_tokens": 40, "ignore_eos": True, "temperature": 1.0, "seed": 5}
    models = [
        jiffy.load(tmp_path, weights="i4", context=CONTEXT, prefill_chunk=16, fuse=fuse) for fuse in (False, True)
    ]
    expected, got = ([c.token_ids for c in model.generate(token_ids=prompts, **asked)] for model in models)
    assert got == expected


def test_same_bits_of_smollm2(smollm2_path):
    options = {"context": CONTEXT, "progress": False}
    expected, got = (jiffy.load(smollm2_path, fuse=fuse, **options).logits(IDS) for fuse in (False, True))
    assert_same(got, expected)


@pytest.mark.parametrize("weights", ["i4", "i8", "bf16"])
def test_ops_of_quantised_weights(tmp_path, weights):
    tiny.write_hf_llama(tmp_path, **ODD, n_layers=3)
    assert fused_ops(tmp_path, weights) == ["embedding", *QUANTISED_LAYER * 3, *QUANTISED_END]


def test_ops_of_float_weights(tmp_path):
    tiny.write_hf_llama(tmp_path, **ODD)
    assert fused_ops(tmp_path, None) == ["embedding", *FLOAT_LAYER * 2, "select", "rms_norm", "matmul"]


def test_ops_with_biases(tmp_path):
    """gate_up has no biases: those matmuls stay, merged into one."""
    tiny.write_hf_llama(tmp_path, **ODD, bias=True, n_layers=1)
    at = QUANTISED_LAYER.index("gate_up")
    layer = [*QUANTISED_LAYER[:at], "matmul", "silu_mul", *QUANTISED_LAYER[at + 1 :]]
    assert fused_ops(tmp_path, "i4") == ["embedding", *layer, *QUANTISED_END]


MIXTURES = {
    "v": {"v_proj": "i8"},
    "v_of_equal_group": {"v_proj": "i8g32"},
    "q_float": {"q_proj": "f32"},
    "down": {"down_proj": "f32", "o_proj": "i4g64a"},
    "gate": {"gate_proj": "i4a"},
    "up": {"up_proj": "i8"},
    "up_float": {"up_proj": "f32"},
    "k_bf16": {"k_proj": "bf16"},
    "mlp_bf16": {"mlp": "bf16"},
    "head_bf16": {"embed_tokens": "bf16"},
    "layer": {"layers.1.": "i8a"},
    "head": {"embed_tokens": "i4g128"},
}


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("by_kind", MIXTURES.values(), ids=MIXTURES)
def test_mixtures(tmp_path, by_kind, bias):
    """Formats that differ where fusion would like them equal: the same bits, and what the packed weights say in f64.

    A number of int8 activations in a group is off by 1/127/sqrt(12) of the group's largest, which is about 2.5 times
    what they all are like: 0.6 %. Nine matmuls, one behind the other, add up to 3 * 0.6 % of the logits.
    """
    tiny.write_hf_llama(tmp_path, **ODD, bias=bias)
    program, trace = traced(tmp_path, Mixed(_core.ThreadPool(2), "i4", by_kind=by_kind))
    got = logits(program.fused())
    assert_same(got, logits(program))
    expected = reference_logits(trace, IDS)
    error = np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2))
    assert error < 0.02, f"off by {error:.2%}"


@pytest.mark.parametrize("isa", jiffy.isas())
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("weights", ["f32", "bf16", "i4", "i8a"])
def test_pairs_are_only_a_layout(tmp_path, weights, bias, isa):
    """Gate and up interleaved in memory or apart, fused or not: the same bits."""
    tiny.write_hf_llama(tmp_path, **ODD, bias=bias)
    packing = Packing(_core.ThreadPool(2), weights)
    pair, apart = (traced(tmp_path, packing, kind)[0] for kind in (Weights, Apart))
    expected = logits(apart, isa)
    for name, program in {"apart, fused": apart.fused(), "pair": pair, "pair, fused": pair.fused()}.items():
        assert_same(logits(program, isa), expected, name)
