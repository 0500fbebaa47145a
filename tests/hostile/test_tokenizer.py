"""Hostile vocabularies and tokenizer.json: an error that names the place, or a tokenizer that works; never a crash."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from jiffy.errors import Error, FormatError, Unsupported
from jiffy.tokenizer import Tokenizer
from tokenizer_files import folder, metadata, spm_metadata

SCALARS = st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats(allow_nan=False) | st.text(max_size=5)
JSON = SCALARS | st.lists(SCALARS, max_size=4) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=4)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model": ...}, "model"),
        ({"model": 7}, "model"),
        ({"tokens": ...}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": "abc"}, "tokens"),
        ({"tokens": [1, 2]}, "tokens"),
        ({"tokens": ["a", "b", "a"], "token_type": ..., "merges": ...}, r"tokens\[0\]"),
        ({"token_type": np.ones(7, "<i4")}, "token_type"),
        ({"token_type": np.ones(300, "<f4")}, "token_type"),
        ({"token_type": "1"}, "token_type"),
        ({"token_type": np.full(300, 7, "<i4")}, r"token_type\[0\]"),
        ({"merges": ["a b", "a zebra"]}, r"merges\[1\]"),
        ({"merges": ["ab"]}, r"merges\[0\]"),
        ({"merges": np.ones(3)}, "merges"),
        ({"pre": 1}, "pre"),
        ({"bos_token_id": 300}, "bos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"eot_token_id": "x"}, "eot_token_id"),
        ({"add_bos_token": 1}, "add_bos_token"),
        ({"add_bos_token": True, "bos_token_id": ...}, "bos_token_id"),
    ],
)
def test_hostile_metadata(tmp_path, changes, key):
    with pytest.raises(FormatError, match=rf"tokenizer\.ggml\.{key}: "):
        Tokenizer.from_source(metadata(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"scores": ...}, "scores"),
        ({"scores": np.zeros(3, "<f4")}, "scores"),
        ({"scores": np.full(267, np.nan, "<f4")}, "scores"),
        ({"tokens": ["a", "b"], "token_type": ..., "scores": np.zeros(2, "<f4")}, "tokens"),
        ({"add_space_prefix": "no"}, "add_space_prefix"),
    ],
)
def test_hostile_sentencepiece(changes, key):
    with pytest.raises(FormatError, match=rf"tokenizer\.ggml\.{key}: "):
        Tokenizer.from_source(spm_metadata(**changes))


def test_a_piece_of_a_megabyte_takes_no_time():
    tokens = ["a" * 1_000_000, *spm_metadata()["tokenizer.ggml.tokens"][1:]]
    types = np.array([1, 3, 3] + [6] * 256 + [1] * 8, "<i4")
    with pytest.raises(FormatError, match=r"tokens\[0\]: expected at most 512 characters"):
        Tokenizer.from_source(spm_metadata(tokens=tokens, token_type=types))


def test_unknown_kinds_are_named(tmp_path):
    with pytest.raises(Unsupported, match=r'pre: expected one of .*smollm.*, found "quaint"'):
        Tokenizer.from_source(metadata(tmp_path, pre="quaint"))
    with pytest.raises(Unsupported, match='model: expected one of gpt2, llama, found "quaint"'):
        Tokenizer.from_source(metadata(tmp_path, model="quaint"))


@settings(max_examples=300, deadline=None)
@given(key=st.sampled_from(sorted(spm_metadata())), value=JSON)
def test_any_value_of_any_key(key, value):
    """It loads and encodes, or it is an error of ours."""
    with suppress(Error):
        tokenizer = Tokenizer.from_source({**spm_metadata(), key: value})
        assert all(0 <= one < tokenizer.vocab_size for one in tokenizer.encode("ab<tool> c</s>", parse_special=True))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_to_tokenizer_json(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged")
    good = json.loads(tiny.tokenizer(259).to_str())
    spot = data.draw(st.sampled_from([*good, "model.vocab", "model.merges", "added_tokens.0", "decoder.type"]))
    *way, last = spot.split(".")
    inner = good
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    inner[int(last) if isinstance(inner, list) else last] = data.draw(JSON)
    (path / "tokenizer.json").write_text(json.dumps(good))
    with suppress(Error):
        Tokenizer.from_source(path).encode("ab <|eos|>")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer__json": "{}"}, "tokenizer.json: "),
        ({"tokenizer__json": "no json"}, "tokenizer.json: "),
        ({"tokenizer_config__json": "[]"}, "tokenizer_config.json: expected a JSON object"),
        ({"tokenizer_config__json": '{"bos_token": "<|none|>"}'}, "bos_token: expected a token of tokenizer.json"),
        ({"tokenizer_config__json": '{"bos_token": [1]}'}, "bos_token: expected a token of tokenizer.json"),
        ({"tokenizer_config__json": '{"add_bos_token": 1}'}, "add_bos_token: expected true or false"),
        ({"tokenizer_config__json": '{"chat_template": 3}'}, "chat_template: expected a text"),
        (
            {"tokenizer_config__json": '{"chat_template": [{"name": {}}, {"name": "default", "template": 1}]}'},
            "chat_template: expected a text",
        ),
        ({"generation_config__json": '{"eos_token_id": [1, 300]}'}, "generation_config.json eos_token_id: "),
    ],
)
def test_hostile_folder(tmp_path, files, message):
    with pytest.raises(FormatError, match=message):
        Tokenizer.from_source(folder(tmp_path, **files))


def test_a_prefix_that_cuts_a_character(tmp_path):
    """The library would abort the process."""
    model = {"type": "BPE", "vocab": {"a": 0, "é": 1}, "merges": [["a", "é"]], "continuing_subword_prefix": "a"}
    with pytest.raises(Unsupported, match='continuing_subword_prefix: expected none beside merges, found "a"'):
        Tokenizer.from_source(folder(tmp_path, tokenizer__json=json.dumps({"model": model})))


def test_missing_folder(tmp_path):
    with pytest.raises(FormatError, match="a readable file"):
        Tokenizer.from_source(tmp_path / "none")
