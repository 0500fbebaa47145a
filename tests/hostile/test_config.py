"""Whatever stands in the JSON files: a good config within its bounds, or an error of ours."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jiffy.config import Config
from jiffy.errors import Error

from .case import hf_folder

_KEYS = [
    "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim",
    "vocab_size rope_theta rms_norm_eps max_position_embeddings tie_word_embeddings bos_token_id eos_token_id",
    "attention_bias mlp_bias rope_parameters rope_scaling hidden_act sliding_window quantization_config",
    "use_sliding_window max_window_layers layer_types",
]
_SCALARS = st.none() | st.booleans() | st.integers(-2, 2**65) | st.floats(allow_nan=False) | st.text(max_size=5)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hf_folder(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def good(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def _read(folder, raw: bytes) -> bool:
    """Whether the config is accepted."""
    (folder / "config.json").write_bytes(raw)
    try:
        config = Config.from_hf(folder)
    except Error:
        return False
    assert config.n_heads % config.n_kv_heads == 0 and config.head_dim % 2 == 0
    assert all(0 <= id < config.vocab_size for id in config.eos_ids)
    assert 0 < config.norm_eps < 1 < config.rope_theta < float("inf")
    assert 1 <= config.context_length <= 1 << 30
    assert len(config.windows) == config.n_layers and all(0 <= window <= 1 << 30 for window in config.windows)
    _check_rope(config)
    return True


def _check_rope(config: Config) -> None:
    """A position is an angle whatever was accepted, up to the ends of the longest context."""
    ends = (1, config.context_length)
    with np.errstate(all="raise", under="ignore"):
        angles = [n * config.rope_scaling.frequencies(config.rope_theta, config.head_dim, n) for n in ends]
    assert all(one.shape == (config.head_dim // 2,) and np.isfinite(one).all() for one in angles)
    assert 0 < config.rope_scaling.attention_factor < float("inf")


@settings(max_examples=1000, deadline=None)
@given(key=st.sampled_from(" ".join(_KEYS).split()), value=_VALUES)
def test_any_value_at_any_key(folder, good, key, value):
    _read(folder, json.dumps({**good, key: value}).encode())


_FACTORS = st.floats(1e-3, 1e6, exclude_min=True, exclude_max=True)
_ROPES = st.fixed_dictionaries(
    {
        "rope_type": st.sampled_from(["linear", "dynamic", "llama3", "yarn"]),
        "factor": _FACTORS,
        "low_freq_factor": st.floats(0.002, 3.0),
        "high_freq_factor": st.floats(3.001, 9e5),
    },
    optional={
        "rope_theta": st.sampled_from([1 + 2**-52, 1e308]) | st.floats(1.0, 1e300, exclude_min=True),
        "attention_factor": _FACTORS,
        "mscale": _FACTORS,
        "mscale_all_dim": _FACTORS,
        "beta_fast": st.floats(1.0, 9e5),
        "beta_slow": st.floats(0.002, 1.0),
        "truncate": st.booleans(),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    rope=_ROPES,
    spelling=st.sampled_from(["rope_scaling", "rope_parameters"]),
    context=st.integers(1, 2**30),
    head_dim=st.sampled_from([2, 4, 64]),
)
def test_any_rope(folder, good, rope, spelling, context, head_dim):
    _read(
        folder, json.dumps({**good, spelling: rope, "max_position_embeddings": context, "head_dim": head_dim}).encode()
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes(folder, good, data):
    raw = bytearray(json.dumps(good).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    _read(folder, raw)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100))
def test_noise(folder, raw):
    _read(folder, raw)
