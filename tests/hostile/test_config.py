"""Whatever stands in the JSON files: a good config within its bounds, or an error of ours."""

import json

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


def _read(folder, raw: bytes) -> None:
    (folder / "config.json").write_bytes(raw)
    try:
        config = Config.from_hf(folder)
    except Error:
        return
    assert config.n_heads % config.n_kv_heads == 0 and config.head_dim % 2 == 0
    assert all(0 <= id < config.vocab_size for id in config.eos_ids)
    assert 0 < config.norm_eps < 1 < config.rope_theta < float("inf")


@settings(max_examples=1000, deadline=None)
@given(key=st.sampled_from(" ".join(_KEYS).split()), value=_VALUES)
def test_any_value_at_any_key(folder, good, key, value):
    _read(folder, json.dumps({**good, key: value}).encode())


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
