"""Static vectors that are distilled from an encoder, against slow references."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

import jiffy
import tiny_encoders as tiny
from compare import assert_same
from jiffy import tasks
from jiffy.distill import distill, table_rows
from jiffy.heaps import heaps
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


def shares_of(text: str, words: list[str]) -> np.ndarray:
    found = np.array([text.split().count(word) for word in words], np.float64)
    return found / max(found.sum(), 1)


def slowly(encoder: jiffy.Encoder, words: list[str], dims: int, texts: list[str]) -> np.ndarray:
    """Rows of words that are one token each in small letters, all matrices whole."""
    table = read_safetensors(encoder.path / "model.safetensors")["embeddings.word_embeddings.weight"]
    table = table.read_rows(0, table.n_rows).view("<f4").reshape(table.shape).astype(np.float64)
    library = tiny.tokenizer()
    library.no_padding()
    pieces = [library.encode(word, add_special_tokens=False).ids for word in words]
    known = [
        encoder.encode(words, normalize=False).astype(np.float64),
        np.array([table[p].mean(axis=0) for p in pieces]),
    ]
    features = np.hstack([rows - rows.mean(axis=0) for rows in map(np.float64, known)])
    longer = [word for word in words if len(word) > 1]
    drawn = heaps(longer, [1 / (i + 2) for i in range(len(longer))])
    lots = [(texts, 1.0, 1.0)] if texts else []
    lots.append((drawn, 0.25, 0.01))
    means = [np.array([shares_of(text, words) for text in some]) for some, _, _ in lots]
    targets = [encoder.encode(some, normalize=True, overflow="truncate").astype(np.float64) for some, _, _ in lots]
    axes = principal(np.vstack([np.sqrt(lot[2]) * rows for lot, rows in zip(lots, targets, strict=True)]), dims)
    targets = [rows @ axes for rows in targets]
    roots = [np.full((len(lot[0]), 1), np.sqrt(lot[1])) for lot in lots]
    own = [np.eye(len(lots))[[i] * len(lot[0])] for i, lot in enumerate(lots)]
    left = np.vstack([r * np.hstack([m @ features, o]) for r, m, o in zip(roots, means, own, strict=True)])
    right = np.vstack([r * t for r, t in zip(roots, targets, strict=True)])
    sizes = np.sqrt((left**2).sum(axis=0))
    price = 300 / sum(len(lot[0]) * lot[1] for lot in lots)
    scaled = left / sizes
    found = np.linalg.solve(scaled.T @ scaled + price * np.eye(len(sizes)), scaled.T @ right) / sizes[:, None]
    rows = features @ found[: features.shape[1]]
    rows -= (means[0] @ rows).mean(axis=0)
    if not texts:
        return rows
    rows += targets[0].mean(axis=0)
    rest = targets[0] - means[0] @ rows
    return rows + np.linalg.solve(means[0].T @ means[0] + 0.03 * np.eye(len(words)), means[0].T @ rest)


def test_distilled_words(encoder, tmp_path):
    words = ["of", "Cat", "cat", "new york", "dog", "a", "sat", "x", "on"]
    distill(encoder, tmp_path / "a.safetensors", dims=3, words=words)
    found = jiffy.load(tmp_path / "a.safetensors")
    kept = ["of", "cat", "dog", "a", "sat", "x", "on"]
    np.testing.assert_allclose(found.encode(kept), slowly(encoder, kept, 3, []), rtol=0, atol=1e-5)
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
    expected = slowly(encoder, words, 4, [text for text in texts if text])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_what_is_known_of_tokens_in_every_family(name, tmp_path):
    tiny.write(tmp_path, name)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    table = next(
        one for key, one in tensors.items() if key.endswith(("word_embeddings.weight", "tok_embeddings.weight"))
    )
    expected = table.read_rows(0, table.n_rows).view("<f4").reshape(table.shape)
    encoder = jiffy.load_encoder(tmp_path, weights="f32")
    assert_same(table_rows(encoder, [""] * len(expected), own=True), expected)
    distill(encoder, tmp_path / "a.safetensors", dims=5)
    assert jiffy.load(tmp_path / "a.safetensors").rows[len(tiny.SPECIALS) :].any(axis=1).all()


def test_heaps_are_drawn_by_their_shares():
    words = ["of", "cat", "dog"] + [f"word{i}" for i in range(5000)]
    drawn = heaps(words, [2, 1, 1] + [0] * 5000)
    assert drawn == heaps(words, [2, 1, 1] + [0] * 5000) and len(drawn) == 5103
    counts = Counter(" ".join(drawn[::2]).split())
    assert set(counts) == {"of", "cat", "dog"}
    assert counts["of"] / counts.total() == pytest.approx(0.5, abs=0.01)
    assert all(text.endswith(" .") for text in drawn[1::2])
    assert all(3 <= len(text.split()) <= 35 for text in drawn[::2])


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
    assert kept == ["minilm-l6-10-2.safetensors"]


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
