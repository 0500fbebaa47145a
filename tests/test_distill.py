"""Static vectors that are distilled from an encoder, against slow references."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jiffy
import tiny_encoders as tiny
from compare import assert_same
from jiffy import tasks
from jiffy.distill import distill
from jiffy.safetensors import read_safetensors
from test_cli import jiffy as command


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> jiffy.Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write(folder, "bert")
    return jiffy.load_encoder(folder, weights="f32")


def principal(rows: np.ndarray, dims: int) -> np.ndarray:
    """[dim, dims], by the singular values."""
    axes = np.linalg.svd(rows)[2][:dims].T
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])


def test_distilled_words(encoder, tmp_path):
    words = ["of", "Cat", "cat", "new york", "dog", "a", "sat", "x", "on"]
    distill(encoder, tmp_path / "a.safetensors", dims=3, words=words)
    found = jiffy.load(tmp_path / "a.safetensors")
    kept = ["of", "cat", "dog", "a", "sat", "x", "on"]
    alone = encoder.encode(kept, normalize=False).astype(np.float64)
    alone -= alone.mean(axis=0)
    longer = 1 / np.arange(2, 7)
    longer /= longer.sum()
    shares = np.array([longer[0], longer[1], longer[2], 1e-4, longer[3], 1e-4, longer[4]])
    expected = alone @ principal(alone, 3) * (1e-4 / (1e-4 + shares))[:, None]
    np.testing.assert_allclose(found.encode(kept), expected, rtol=1e-4, atol=1e-8)
    assert_same(found.encode("CAT!"), found.encode("cat"))
    assert_same(found.encode("york"), np.zeros(3, np.float32))


def test_distilled_tokens_are_the_encoders(encoder, tmp_path):
    distill(encoder, tmp_path / "a.safetensors", dims=5)
    distill(encoder, tmp_path / "b.safetensors", dims=5)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = jiffy.load(tmp_path / "a.safetensors")
    library = tiny.tokenizer()
    ids = [library.token_to_id(token) for token in ("a", "##b", "##c")]
    expected = found.rows[ids].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(found.encode("abc"), expected, rtol=0, atol=1e-6)
    assert not found.rows[: len(tiny.SPECIALS)].any() and found.rows[len(tiny.SPECIALS) :].any(axis=1).all()


def test_learning_from_texts_finds_the_least_squares(encoder, tmp_path):
    words, texts = ["cat", "dog", "sat", "on"], ["cat sat", "dog sat on on", "dog", "cat on dog cat", "", "cat " * 600]
    distill(encoder, tmp_path / "a.safetensors", dims=4, words=words, texts=texts)
    found = jiffy.load(tmp_path / "a.safetensors").encode(words)
    alone = encoder.encode(words, normalize=False).astype(np.float64)
    counts = np.array([[text.split().count(word) for word in words] for text in texts if text], np.float64)
    targets = encoder.encode([text for text in texts if text], normalize=True, overflow="truncate").astype(np.float64)
    axes = principal(targets, 4)
    shares = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * 5)
    first = (alone - alone.mean(axis=0)) @ axes * (1e-4 / (1e-4 + shares))[:, None]
    means, targets = counts / counts.sum(axis=1, keepdims=True), targets @ axes
    first *= (means @ first * targets).sum() / ((means @ first) ** 2).sum()
    left = means.T @ means + 0.01 * np.eye(4)
    expected = first + np.linalg.solve(left, means.T @ (targets - means @ first))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


BAD_DISTILLING = {
    "dims": ({"dims": 37}, "dims: expected an integer from 1 to 36"),
    "dims-none": ({"dims": 0}, "dims: expected an integer"),
    "no-words": ({"words": []}, "words: expected 1 to"),
    "one-word": ({"words": ["cat"]}, "words: expected at least two"),
    "no-word": ({"words": ["cat", 7]}, r"words\[1\]: expected a string"),
    "no-text": ({"texts": ["cat", None]}, r"texts\[1\]: expected a string"),
    "empty-texts": ({"texts": ["", " "]}, "texts: expected at least one with tokens"),
}


@pytest.mark.parametrize(("options", "message"), BAD_DISTILLING.values(), ids=BAD_DISTILLING)
def test_bad_arguments_of_distill(encoder, tmp_path, options, message):
    with pytest.raises(jiffy.ParameterError, match=message):
        distill(encoder, tmp_path / "a.safetensors", **{"dims": 3, **options})
    assert not list(tmp_path.iterdir())


def test_a_file_that_can_not_be_written(encoder):
    with pytest.raises(jiffy.FormatError, match="/nowhere/a.safetensors: expected a file that can be written"):
        distill(encoder, "/nowhere/a.safetensors", dims=3)


def test_default_vectors_are_made_once(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tasks.static, "encoder_of", lambda model: encoder)
    monkeypatch.setattr(tasks.static, "_DIMS", 10)
    first = tasks.string_to_vector("a text")
    assert first.shape == (10,) and first.dtype == np.float32 and first.any()
    assert "distilling vectors of 10 numbers" in capsys.readouterr().err
    assert_same(tasks.string_to_vector(["a text", ""])[0], first)
    assert capsys.readouterr().err == ""
    kept = [path.name for path in (tmp_path / "jiffy" / "static").iterdir()]
    assert kept == ["minilm-l6-10-1.safetensors"]


def test_command_line(encoder, tmp_path):
    words, texts = tmp_path / "words.txt", tmp_path / "texts.txt"
    words.write_text("cat\ndog\nsat\n")
    texts.write_text("cat sat\n\ndog sat\n")
    out = tmp_path / "made.safetensors"
    said = command(
        "distill", str(encoder.path), "--dims", "2", "--words", str(words), "--texts", str(texts), "-o", str(out)
    )
    assert said.stdout.startswith(f"{out}: ")
    assert set(read_safetensors(out)) == {"embeddings"}
    lines = command("embed", "cat dog", "unknown", "--model", str(out)).stdout.splitlines()
    expected = jiffy.load(out).encode(["cat dog", "unknown"])
    np.testing.assert_allclose([json.loads(line)["embedding"] for line in lines], expected, atol=1e-6)
