"""Folders of encoder-decoders that say something else than they hold, and calls that can't be."""

from __future__ import annotations

import json
import shutil

import pytest

import jiffy
import tiny
import tiny_seq2seq

BAD = [-1, 0, 1.5, "x", [], {}, True, 1 << 70, None, float("inf")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name in ("bart", "t5"):
        made[name] = tmp_path_factory.mktemp(name)
        tiny_seq2seq.write_seq2seq(made[name], name)
    return made


@pytest.mark.parametrize("name", ["bart", "t5"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_no_value_of_a_config_is_trusted(tmp_path, folders, name, file):
    """Whatever stands there: a model, or an error of ours."""
    folder = tmp_path / "model"
    shutil.copytree(folders[name], folder)
    values = json.loads((folder / file).read_text())
    refused = 0
    for key in values:
        for bad in BAD:
            (folder / file).write_text(json.dumps({**values, key: bad}))
            try:
                jiffy.load(folder, n_threads=1)
            except jiffy.Error:
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_sizes_that_the_tensors_do_not_have(tmp_path, folders, name):
    folder = tmp_path / "model"
    shutil.copytree(folders[name], folder)
    values = json.loads((folder / "config.json").read_text())
    width = "encoder_ffn_dim" if name == "bart" else "d_ff"
    for key in (width, "d_model", "vocab_size"):
        (folder / "config.json").write_text(json.dumps({**values, key: values[key] * 2}))
        with pytest.raises(jiffy.FormatError):
            jiffy.load(folder)


def test_a_missing_tensor_is_named(tmp_path, folders):
    folder = tmp_path / "model"
    shutil.copytree(folders["t5"], folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_decoder_layers": 3}))
    with pytest.raises(jiffy.FormatError, match=r"decoder\.block\.2\.layer\.0"):
        jiffy.load(folder)


@pytest.mark.parametrize(
    ("arguments", "kind", "name"),
    [
        ({"texts": None}, jiffy.ParameterError, "texts"),
        ({"texts": "a", "token_ids": [1]}, jiffy.ParameterError, "texts"),
        ({"texts": 3}, jiffy.ParameterError, "texts"),
        ({"texts": [3]}, jiffy.ParameterError, "text"),
        ({"token_ids": 3}, jiffy.ParameterError, "token_ids"),
        ({"token_ids": []}, jiffy.ParameterError, "token_ids"),
        ({"token_ids": [tiny_seq2seq.VOCAB]}, jiffy.ParameterError, "token_ids"),
        ({"token_ids": [True]}, jiffy.ParameterError, "token_ids"),
        ({"token_ids": [5] * 65}, jiffy.ContextOverflow, "text"),
        ({"texts": "a " * 100_000}, jiffy.ContextOverflow, "text"),
        ({"texts": "a", "errors": "x"}, jiffy.ParameterError, "errors"),
        ({"texts": "a", "overflow": "x"}, jiffy.ParameterError, "overflow"),
        ({"texts": "a", "n_beams": 65}, jiffy.ParameterError, "n_beams"),
        ({"texts": "a", "nonsense": 1}, jiffy.ParameterError, "nonsense"),
        ({"texts": "a", "max_tokens": 0}, jiffy.ParameterError, "max_tokens"),
    ],
)
def test_calls_that_cannot_be(folders, arguments, kind, name):
    model = jiffy.load(folders["bart"], n_threads=1)
    with pytest.raises(kind, match=name):
        model.generate(**arguments)
    assert model.generate("ab", max_tokens=3).n_tokens == 3
    assert model._engine.n_free_source_blocks == model._engine.n_source_blocks


def test_weights_that_overflow_fail_alone(tmp_path):
    """Of a list only the text fails that reaches the position whose embedding is too large."""
    folder = tmp_path / "model"
    model = tiny_seq2seq.write_seq2seq(folder, "bart")
    model.model.encoder.embed_positions.weight.data[2 + 3] = 3e38
    model.save_pretrained(folder)
    loaded = jiffy.load(folder, weights="f32", n_threads=2)
    sources = [[3, 4, 5], [3, 9, 9, 5], [6, 7]]
    for fields in ({}, {"n_beams": 3}):
        found = loaded.generate(token_ids=sources, errors="return", max_tokens=4, **fields)
        assert [type(one).__name__ for one in found] == ["Completion", "FormatError", "Completion"]
        assert found[0].token_ids == loaded.generate(token_ids=sources[0], max_tokens=4, **fields).token_ids
        with pytest.raises(jiffy.FormatError, match="logits"):
            loaded.generate(token_ids=sources, max_tokens=4, **fields)
    assert loaded._engine.idle() and loaded._engine.n_free_blocks == loaded._engine.n_blocks


def test_what_ends_a_text_stands_in_the_files(folders):
    assert tiny.EOS in jiffy.load(folders["bart"]).reader.eos_ids
