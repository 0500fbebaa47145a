"""Every scaling of rope against transformers, at positions that its unscaled model never saw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import jiffy
import tiny
from compare import assert_close, assert_same
from jiffy.config import Config
from jiffy.rope import RopeTables
from reference import SHARE, greedy, random_ids, reference, reference_logits

ORIGINAL, CONTEXT = 64, 256
N_TOKENS = 220

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": ORIGINAL}
YARN = {"factor": 4.0, "original_max_position_embeddings": ORIGINAL}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "yarn": {"rope_type": "yarn", **YARN},
    "yarn_attention_factor": {"rope_type": "yarn", **YARN, "attention_factor": 1.7},
    "yarn_mscale": {"rope_type": "yarn", **YARN, "mscale": 3.0, "mscale_all_dim": 1.0},
    "yarn_one_mscale": {"rope_type": "yarn", **YARN, "mscale": 3.0, "mscale_all_dim": 0},
    "yarn_betas": {"rope_type": "yarn", **YARN, "beta_fast": 5, "beta_slow": 0.3},
    "yarn_not_truncated": {"rope_type": "yarn", **YARN, "beta_fast": 5, "beta_slow": 0.3, "truncate": False},
}


def write(folder, rope: dict[str, object], spelling: str = "rope_scaling", **options: object) -> None:
    """A tiny llama; transformers 4 spells it rope_scaling, 5 rope_parameters."""
    tiny.write_hf_llama(folder, **{"max_position_embeddings": CONTEXT, "tied": False, spelling: rope, **options})


@pytest.mark.parametrize("name", SCALINGS)
def test_logits(tmp_path, name):
    write(tmp_path / "scaled", SCALINGS[name])
    write(tmp_path / "plain", {"rope_type": "default"})
    ids = random_ids(N_TOKENS)
    expected, plain = (reference_logits(reference(tmp_path / which), ids) for which in ("scaled", "plain"))
    assert np.abs(expected - plain)[ORIGINAL:].max() > 0.01 * np.abs(plain).max(), "the scaling changes nothing"
    whole = jiffy.load(tmp_path / "scaled", weights="f32").logits(ids)
    assert_close(whole, expected, SHARE)
    assert_same(jiffy.load(tmp_path / "scaled", weights="f32", prefill_chunk=37).logits(ids), whole)


@pytest.mark.parametrize("name", ["linear", "llama3", "yarn", "yarn_not_truncated"])
def test_greedy_tokens(tmp_path, name):
    """Decoding from within the original context to four times its length."""
    write(tmp_path, SCALINGS[name] | {"rope_theta": 500.0}, "rope_parameters")
    ids = random_ids(50)
    completion = jiffy.load(tmp_path, weights="f32").generate(token_ids=ids, max_tokens=180, ignore_eos=True)
    assert completion.token_ids == greedy(reference(tmp_path), ids, 180)


@pytest.mark.parametrize(("context", "n_tokens"), [(N_TOKENS, N_TOKENS), (ORIGINAL, ORIGINAL), (ORIGINAL, 20)])
def test_dynamic(tmp_path, context, n_tokens):
    """A model with a context of n positions gives what transformers gives in one pass over n tokens."""
    write(tmp_path, {"type": "dynamic", "factor": 4.0}, max_position_embeddings=ORIGINAL)
    ids = random_ids(n_tokens)
    whole = jiffy.load(tmp_path, weights="f32", context=context).logits(ids)
    assert_close(whole, reference_logits(reference(tmp_path), ids), SHARE)
    assert_same(jiffy.load(tmp_path, weights="f32", context=context, prefill_chunk=37).logits(ids), whole)


def test_dynamic_is_a_function_of_the_context_alone(tmp_path):
    """Where transformers would turn some keys by one angle and some by another: decoding past the original length."""
    write(tmp_path, {"type": "dynamic", "factor": 4.0}, max_position_embeddings=ORIGINAL)
    model = jiffy.load(tmp_path, weights="f32", context=CONTEXT)
    ids = random_ids(50)
    ids += model.generate(token_ids=ids, max_tokens=150, ignore_eos=True).token_ids
    assert model.logits(ids)[49:-1].argmax(axis=1).tolist() == ids[50:]


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "default"}, CONTEXT),
        ({"type": "linear", "factor": 4.0}, CONTEXT),
        ({"type": "dynamic", "factor": 2.5}, 640),
        ({"rope_type": "llama3", **LLAMA3}, CONTEXT),
        ({"rope_type": "yarn", **YARN}, CONTEXT),
        ({"rope_type": "yarn", **YARN, "factor": 10}, 640),
        ({"rope_type": "yarn", **YARN, "factor": 1e5, "original_max_position_embeddings": 1 << 30}, 1 << 30),
    ],
)
def test_context_length(tmp_path, rope, expected):
    write(tmp_path, rope)
    assert Config.from_hf(tmp_path).context_length == expected


def test_the_longest_context_is_loaded(tmp_path):
    write(tmp_path, {"rope_type": "yarn", **YARN}, max_position_embeddings=ORIGINAL)
    assert len(jiffy.load(tmp_path, context=4 * ORIGINAL).logits(random_ids(4 * ORIGINAL))) == 4 * ORIGINAL
    with pytest.raises(jiffy.ParameterError, match="context: expected at most the model's 256 positions"):
        jiffy.load(tmp_path, context=4 * ORIGINAL + 1)


_FACTORS = st.floats(1.0, 64.0)
_ORIGINALS = st.integers(4, 100_000)
_ROPES = st.one_of(
    st.fixed_dictionaries({"rope_type": st.just("linear"), "factor": _FACTORS}),
    st.fixed_dictionaries({"rope_type": st.just("dynamic"), "factor": _FACTORS}),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("llama3"),
            "factor": _FACTORS,
            "low_freq_factor": st.floats(0.1, 2.0),
            "high_freq_factor": st.floats(2.5, 10.0),
            "original_max_position_embeddings": _ORIGINALS,
        }
    ),
    st.fixed_dictionaries(
        {
            "rope_type": st.just("yarn"),
            "factor": _FACTORS,
            "original_max_position_embeddings": _ORIGINALS,
        },
        optional={
            "attention_factor": st.floats(0.1, 4.0),
            "mscale": st.floats(0.1, 4.0),
            "mscale_all_dim": st.floats(0.1, 4.0),
            "beta_fast": st.floats(8.0, 64.0),
            "beta_slow": st.floats(0.1, 4.0),
            "truncate": st.booleans(),
        },
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


@settings(max_examples=300, deadline=None)
@given(
    rope=_ROPES,
    theta=st.floats(10.0, 1e7),
    half=st.integers(2, 64),
    context=st.integers(1, 20_000),
    length=st.integers(8, 10_000),
)
def test_frequencies(folder, rope, theta, half, context, length):
    """Those of transformers, from a file that transformers has written."""
    sizes = {"hidden_size": 4 * half, "num_attention_heads": 2, "head_dim": 2 * half, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(
        **sizes, max_position_embeddings=length, rope_parameters={**rope, "rope_theta": theta}
    )
    config.save_pretrained(folder)
    expected, attention_factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, seq_len=context)
    got = Config.from_hf(folder)
    assert got.rope_theta == theta
    assert math.isclose(got.rope_scaling.attention_factor, attention_factor, rel_tol=1e-15)
    frequencies = got.rope_scaling.frequencies(theta, 2 * half, context)
    # float32: half a unit in the exponent of theta^x makes ln(theta) / 2 in the power; the smooth parts of llama3 and
    # yarn lose up to a unit at each of their few steps, times what they are multiplied by, of which factor is largest.
    error = (8 + math.log(theta) + 4 * rope["factor"]) * 2.0**-23
    np.testing.assert_allclose(expected.numpy(), frequencies, rtol=error)


def test_tables_are_angles(tmp_path):
    write(tmp_path, SCALINGS["yarn_attention_factor"])
    config = Config.from_hf(tmp_path)
    tables = RopeTables.make(300, config.head_dim, config.rope_theta, config.rope_scaling)
    rotary = reference(tmp_path).model.rotary_emb
    cosines, sines = rotary(torch.zeros(1), torch.arange(300)[None])
    half = config.head_dim // 2
    for table, expected in ((np.asarray(tables.cosines), cosines), (np.asarray(tables.sines), sines)):
        assert table.shape == (300, half) and table.dtype == np.float32
        # transformers rounds position * frequency to float32: up to 299 * 2^-24, and the frequency by 2^-22 or so
        np.testing.assert_allclose(table, expected[0, :, :half].numpy(), atol=1.7 * 300 * 2.0**-21)


def gguf_pair(folder, rope: dict[str, object], **gguf_options: object) -> tuple[np.ndarray, np.ndarray]:
    """The logits of a scaled model in a GGUF file, and transformers' of its folder."""
    sizes = {"dim": 48, "ffn_dim": 80, "n_heads": 3, "n_kv_heads": 1, "tied": False}
    write(folder / "folder", rope, max_position_embeddings=2048, **sizes)
    tiny.write_gguf_llama(folder / "a.gguf", dtype="f32", **sizes, **gguf_options)
    ids = random_ids(N_TOKENS)
    return jiffy.load(folder / "a.gguf").logits(ids), reference_logits(reference(folder / "folder"), ids)


def test_gguf_divisors(tmp_path):
    """Llama 3.1's rule as llama.cpp's converter stores it: plain frequencies over scaled ones."""
    rope = {"rope_type": "llama3", **LLAMA3}
    config = transformers.LlamaConfig(
        hidden_size=48, num_attention_heads=3, rope_parameters={**rope, "rope_theta": 1e4}
    )
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    divisors = 1e4 ** (-np.arange(0, 16, 2) / 16) / scaled.numpy()
    assert divisors[0] == 1 and math.isclose(divisors[-1], 8, rel_tol=1e-6)
    assert_close(*gguf_pair(tmp_path, rope, rope_freqs=divisors.astype(np.float32)), SHARE)


GGUF_SCALINGS = {
    "linear": (SCALINGS["linear"], {"type": "linear", "factor": 4.0}),
    "linear_by_default": (SCALINGS["linear"], {"factor": 4.0}),
    "none": ({"rope_type": "default"}, {"type": "none", "factor": 4.0}),
    "factor_not_set": ({"rope_type": "default"}, {"type": "linear", "factor": 0.0}),
    "yarn": (SCALINGS["yarn"], {"type": "yarn", "factor": 4.0, "original_context_length": ORIGINAL}),
    "yarn_attn_factor": (
        {**SCALINGS["yarn"], "attention_factor": 1.25 * (0.1 * math.log(4) + 1)},
        {"type": "yarn", "factor": 4.0, "original_context_length": ORIGINAL, "attn_factor": 1.25},
    ),
    "yarn_betas": (
        SCALINGS["yarn_betas"],
        {
            "type": "yarn",
            "factor": 4.0,
            "original_context_length": ORIGINAL,
            "yarn_beta_fast": 5.0,
            "yarn_beta_slow": 0.3,
        },
    ),
    "yarn_of_the_whole_context": (
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048},
        {"type": "yarn", "factor": 2.0},
    ),
}


@pytest.mark.parametrize("name", GGUF_SCALINGS)
def test_gguf_metadata(tmp_path, name):
    rope, keys = GGUF_SCALINGS[name]
    metadata = {f"llama.rope.scaling.{key}": value for key, value in keys.items()}
    assert_close(*gguf_pair(tmp_path, rope, metadata=metadata), SHARE)


def test_gguf_old_key(tmp_path):
    assert_close(*gguf_pair(tmp_path, SCALINGS["linear"], metadata={"llama.rope.scale_linear": 4.0}), SHARE)
