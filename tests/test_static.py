"""Static vectors: every kind of file, means with the same bits in any company, and bad files, against slow
references."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import jiffy
import tiny_encoders as tiny
from compare import assert_same
from jiffy import tasks
from jiffy.safetensors import write_safetensors
from test_cli import jiffy as command

WORDS = ["the", "cat", "naïve", "n't", "U.S.", "sat", ".", "日本"]
ROWS = np.random.default_rng(0).standard_normal((len(WORDS), 37)).astype(np.float32)


def write_text(path, rows=ROWS, words=WORDS, head="", end="\n"):
    lines = [f"{word} {' '.join(map(repr, map(float, row)))}" for word, row in zip(words, rows, strict=True)]
    path.write_bytes((head + end.join([*lines, ""])).encode())
    return path


def write_npy(path, rows=ROWS, words=WORDS):
    np.save(path, rows)
    path.with_suffix(".txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return path


def write_model(folder, rows, **more):
    """As model2vec does."""
    write_safetensors(folder / "model.safetensors", {"embeddings": rows, **more}, {})
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> jiffy.StaticVectors:
    return jiffy.load(write_text(tmp_path_factory.mktemp("static") / "words.txt"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> jiffy.Encoder:
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write(folder, "bert")
    return jiffy.load_encoder(folder, weights="f32")


def mean(*numbers: int, rows=ROWS) -> np.ndarray:
    return rows[list(numbers)].astype(np.float64).mean(axis=0)


def test_every_kind_of_file_gives_the_same_vectors(tmp_path, vectors):
    made = [
        write_text(tmp_path / "head.vec", head=f"{len(WORDS)} 37\n"),
        write_text(tmp_path / "spaces.vec", end=" \r\n"),
        write_npy(tmp_path / "f32.npy"),
        write_npy(tmp_path / "f64.npy", ROWS.astype(np.float64)),
    ]
    for path in made:
        assert_same(jiffy.load(path).rows, ROWS)
    assert_same(
        jiffy.load(write_npy(tmp_path / "f16.npy", ROWS.astype(np.float16))).rows, ROWS.astype(np.float16) * 1.0
    )
    assert_same(vectors.encode(WORDS), ROWS)


def test_words_that_hold_spaces_are_read(tmp_path):
    found = jiffy.load(write_text(tmp_path / "spaces.txt", ROWS[:2], ["one", ". . ."]))
    assert_same(found.rows, ROWS[:2])


def test_means_are_those_of_numpy(vectors):
    texts = ["the cat sat", "The CAT, sat.", "U.S. cat", "日本 naïve n't", "the the the cat"]
    expected = [mean(0, 1, 5), mean(0, 1, 5, 6), mean(4, 1), mean(7, 2, 3), mean(0, 0, 0, 1)]
    np.testing.assert_allclose(vectors.encode(texts), expected, rtol=0, atol=1e-6)
    lengths = [row / np.linalg.norm(row) for row in expected]
    np.testing.assert_allclose(vectors.encode(texts, normalize=True), lengths, rtol=0, atol=1e-6)
    assert_same(vectors.encode("the cat", pooling="max"), ROWS[:2].max(axis=0))


def test_what_is_unknown_is_left_out_and_nothing_is_zero(vectors):
    assert_same(vectors.encode("the unheard-of cat"), vectors.encode("the cat"))
    for text in ("", "  \n", "dog"):
        for normalize in (False, True):
            assert_same(vectors.encode(text, normalize=normalize), np.zeros(37, np.float32))
    assert vectors.encode([]).shape == (0, 37)


def test_a_text_has_the_same_bits_in_any_company(tmp_path, vectors):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice([*WORDS, "dog"], rng.integers(0, 60))) for _ in range(1500)]
    together = vectors.encode(texts)
    assert_same(np.stack([vectors.encode(text) for text in texts]), together)
    order = rng.permutation(len(texts))
    assert_same(vectors.encode([texts[i] for i in order]), together[order])
    path = write_text(tmp_path / "words.txt")
    for isa in jiffy.isas():
        assert_same(jiffy.load(path, isa=isa, n_threads=3).encode(texts), together)


def test_tokens_of_model2vec(tmp_path):
    library = tiny.tokenizer()
    library.no_truncation()
    library.no_padding()
    rows = np.random.default_rng(2).standard_normal((tiny.VOCAB, 20)).astype(np.float32)
    weights = np.linspace(0.1, 2, tiny.VOCAB, dtype=np.float32)
    texts = ["some words", "ab, cd", "what É is? [MASK]"]
    found = jiffy.load(write_model(tmp_path, rows, weights=weights))
    for text, row in zip(texts, found.encode(texts), strict=True):
        library.encode_special_tokens = True
        ids = [i for i in library.encode(text, add_special_tokens=False).ids if i != library.token_to_id("[UNK]")]
        np.testing.assert_allclose(row, mean(*ids, rows=rows * weights[:, None]), rtol=0, atol=1e-6)
    assert_same(found.encode("\u4e00"), np.zeros(20, np.float32))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_tokens_that_share_rows(tmp_path, dtype):
    """As model2vec writes them: rows by what `mapping` makes of a token's id, times a weight by the id itself."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((7, 20)).astype(np.float32)
    mapping = rng.integers(0, len(rows), tiny.VOCAB).astype(dtype)
    weights = np.linspace(0.1, 2, tiny.VOCAB, dtype=np.float32)
    found = jiffy.load(write_mapped(tmp_path, rows, mapping, weights=weights))
    assert_same(found.rows, rows[mapping] * weights[:, None])
    assert_same(jiffy.load(write_mapped(tmp_path, rows, mapping)).rows, rows[mapping])


def write_mapped(folder, rows, mapping, **more):
    """With the safetensors library, since ours writes floats alone."""
    write_model(folder, rows)
    save_file({"embeddings": rows, "mapping": mapping, **more}, folder / "model.safetensors")
    return folder


def test_bad_mappings(tmp_path):
    rows = np.ones((7, 4), np.float32)
    good = np.zeros(tiny.VOCAB, np.int32)
    for wrong in (-1, 7):
        with pytest.raises(jiffy.FormatError, match=f"mapping: expected rows 0 to 6, found .*{wrong}"):
            jiffy.load(write_mapped(tmp_path, rows, np.append(good, np.int32(wrong))))
    with pytest.raises(jiffy.FormatError, match="mapping shape: expected 1 to"):
        jiffy.load(write_mapped(tmp_path, rows, good[None]))
    with pytest.raises(jiffy.Unsupported, match="mapping dtype: expected I32 or I64, found F32"):
        jiffy.load(write_mapped(tmp_path, rows, good.astype(np.float32)))
    with pytest.raises(jiffy.FormatError, match="ids below the 50 rows"):
        jiffy.load(write_mapped(tmp_path, rows, good[:50]))
    with pytest.raises(jiffy.FormatError, match=r"weights shape: expected .100."):
        jiffy.load(write_mapped(tmp_path, rows, np.zeros(100, np.int32), weights=np.ones(7, np.float32)))


def test_words_have_the_tokens_that_the_library_gives_the_text(tmp_path):
    rows = np.eye(tiny.VOCAB, dtype=np.float32)
    found = jiffy.load(write_model(tmp_path, rows))
    library = tiny.tokenizer()
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    rng, signs = np.random.default_rng(3), list("abcé\u0301 \t\n\x1c\x85\u00a0\u3000\u200b.,'[]世Σςß\0\ufffdA")
    texts = ["".join(rng.choice([*signs, "[MASK]", " "], rng.integers(1, 40))) for _ in range(2000)]
    texts.append("a" * 200 + " " + "b" * 65)
    for text, row in zip(texts, found.encode(texts), strict=True):
        ids = [i for i in library.encode(text, add_special_tokens=False).ids if i != library.token_to_id("[UNK]")]
        expected = np.bincount(ids, minlength=tiny.VOCAB) / max(len(ids), 1)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-6, err_msg=repr(text))


def test_a_long_text(vectors):
    text = "the cat sat " * 200_000
    np.testing.assert_allclose(vectors.encode(text), mean(0, 1, 5), rtol=0, atol=0.01)  # 600,000 sums in f32
    with pytest.raises(jiffy.ContextOverflow, match="at most 1048576 tokens"):
        vectors.encode("the " * 1_100_000)
    found = tasks.embed("the " * 1_100_000, vectors, overflow="truncate")
    np.testing.assert_allclose(found, ROWS[0], rtol=0, atol=0.02)


def test_bad_texts_are_errors_of_their_own(vectors):
    found = tasks.string_to_vector(["the", 7, "\ud800", ("a", "b"), "cat"], vectors, errors="return")
    assert_same(found[0], ROWS[0])
    assert_same(found[4], ROWS[1])
    assert all(isinstance(one, jiffy.ParameterError) for one in found[1:4])
    with pytest.raises(jiffy.ParameterError, match="text: expected a string"):
        tasks.string_to_vector(["the", 7], vectors)


def test_tasks_take_static_vectors(vectors, tmp_path):
    assert_same(tasks.string_to_vector("the cat", vectors), vectors.encode("the cat"))
    assert_same(tasks.string_to_vector("the cat", write_text(tmp_path / "w.txt")), vectors.encode("the cat"))
    assert_same(np.stack(list(tasks.string_to_vector(iter(["the", "cat"]), vectors))), ROWS[:2])
    assert tasks.similarity("the cat", "cat the", vectors) == pytest.approx(1, abs=1e-6)
    assert tasks.rerank("cat", ["the", "cat"], vectors)[0].index == 1
    head = tasks.fit(["the", "cat"] * 5, ["a", "b"] * 5, vectors)
    assert [one.label for one in tasks.text_classification(["cat", "the"], head)] == ["b", "a"]


def test_tasks_that_need_another_model(vectors, encoder):
    with pytest.raises(jiffy.Unsupported, match="an encoder, found static vectors"):
        tasks.token_classification("a", vectors)
    with pytest.raises(jiffy.Unsupported, match="static vectors, found an encoder"):
        tasks.string_to_vector("a", encoder)
    with pytest.raises(jiffy.ParameterError, match="model: expected an Encoder, StaticVectors"):
        tasks.string_to_vector("a", 7)


GOOD = b"a 1 2\nb 3 4\n"
BAD_TEXTS = {
    "empty": (b"", "line 1: expected a word and 1 to"),
    "no-numbers": (b"a\nb\n", "line 1: expected a word and 1 to"),
    "count-low": (b"1 2\n" + GOOD, "line 1: expected 2 words, as there are, found 1"),
    "count-high": (b"3 2\n" + GOOD, "line 1: expected 2 words, as there are, found 3"),
    "count-huge": (b"999999999 2\n" + GOOD, "line 1: expected 2 words"),
    "dim": (b"2 3\n" + GOOD, "line 2: expected a word and 3 numbers"),
    "dim-zero": (b"2 0\n" + GOOD, "line 1: expected a word and 1 to"),
    "dim-huge": (b"2 99999999\n" + GOOD, "line 1: expected a word and 1 to 16384 numbers"),
    "head-alone": (b"0 2\n", "expected at least one word"),
    "ragged": (GOOD + b"c 5\n", "line 3: expected a word and 2 numbers"),
    "blank": (GOOD + b"\n" + GOOD, "line 3: expected a word and 2 numbers"),
    "cut": (GOOD + b"c 5 ", "line 3: expected a word and 2 numbers"),
    "nan": (GOOD + b"c nan 1\n", "line 3: expected finite numbers"),
    "infinity": (b"2 2\na 1 2\nb 3 1e99\n", "line 3: expected finite numbers"),
    "letters": (b"a 1 2\nb 3 x\nc 1 2\n", "line 2: expected finite numbers"),
    "digits": (b"a 1 2\nb 3 " + b"1" * 5000 + b"\n", "line 2: expected finite numbers"),
    "zero-byte": (b"a 1 2\nb 3 4\x005\n", "line 2: expected finite numbers"),
    "twice": (GOOD + b"a 5 6\n", 'expected every word once, found "a" 2 times'),
    "utf-8": (b"a 1 2\nb\xff 3 4\n", "line 2: expected UTF-8, found byte 0xff"),
    "long-line": (GOOD + b"c" * (1 << 20) + b" 1 2\n", "line 3: expected a word and 2 numbers, at most"),
    "first-line": (b"1 " * (1 << 19), "line 1: expected a word and 1 to"),
}


@pytest.mark.parametrize(("content", "message"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_bad_text_files(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(jiffy.FormatError, match=f"bad.txt.*{message}"):
        jiffy.load(tmp_path / "bad.txt")


def npy_header(text: str) -> bytes:
    head = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


BAD_ARRAYS = {
    "empty": b"",
    "magic": b"NUMPY" * 50,
    "version": b"\x93NUMPY\x02\x00" + bytes(200),
    "code": npy_header("__import__('os').getcwd()"),
    "deep": npy_header("(" * 100),
    "huge": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999), }"),
    "large": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999, 9999), }"),
    "negative": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }"),
    "objects": npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }") + bytes(32),
    "integers": npy_header("{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2), }") + bytes(16),
    "columns": npy_header("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }") + bytes(16),
    "big-endian": npy_header("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 2), }") + bytes(16),
    "vector": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }") + bytes(16),
    "short": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }") + bytes(15),
    "long": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }") + bytes(17),
    "nan": npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }") + b"\xff" * 16,
}


@pytest.mark.parametrize("content", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_bad_arrays(tmp_path, content):
    (tmp_path / "bad.npy").write_bytes(content)
    (tmp_path / "bad.txt").write_text("a\nb\n")
    with pytest.raises(jiffy.FormatError, match="bad.npy"):
        jiffy.load(tmp_path / "bad.npy")


@pytest.mark.parametrize("content", [None, b"a\n", b"a\nb\nc\n", b"a\na\n", b"a\n\nb\n", b"a\n\xff\n"])
def test_bad_lists_of_words(tmp_path, content):
    write_npy(tmp_path / "x.npy", ROWS[:2], ["a", "b"])
    (tmp_path / "x.txt").unlink()
    if content is not None:
        (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(jiffy.FormatError, match="x.txt"):
        jiffy.load(tmp_path / "x.npy")


def test_bad_models(tmp_path):
    rows = np.ones((tiny.VOCAB, 4), np.float32)
    with pytest.raises(jiffy.FormatError, match="ids below the 50 rows"):
        jiffy.load(write_model(tmp_path, rows[:50]))
    with pytest.raises(jiffy.FormatError, match=f"weights shape: expected .{tiny.VOCAB}."):
        jiffy.load(write_model(tmp_path, rows, weights=np.ones(3, np.float32)))
    with pytest.raises(jiffy.FormatError, match="embeddings shape: expected at most"):
        jiffy.load(write_model(tmp_path, rows[0]))
    with pytest.raises(jiffy.Unsupported, match="one tensor embeddings or embedding.weight"):
        jiffy.load(write_model(tmp_path, rows, **{"embedding.weight": rows}))
    rows[3, 2] = np.nan
    with pytest.raises(jiffy.FormatError, match="embeddings: expected finite weights"):
        jiffy.load(write_model(tmp_path, rows))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(jiffy.FormatError, match="tokenizer"):
        jiffy.load(write_model(tmp_path, np.ones((tiny.VOCAB, 4), np.float32)) and _spoilt(tmp_path))
    with pytest.raises(jiffy.ParameterError, match="isa"):
        jiffy.StaticVectors(tmp_path, isa="mmx")


def _spoilt(folder):
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_command_line(tmp_path):
    path = write_text(tmp_path / "glove.txt")
    found = json.loads(command("embed", "cat", "--model", str(path)).stdout)["embedding"]
    np.testing.assert_allclose(found, ROWS[1], atol=1e-6)
