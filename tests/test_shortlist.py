"""Lexical shortlists: their files, and translations chosen from candidates alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

import jiffy
import tiny_marian
from compare import assert_same
from jiffy import _core
from lex_file import candidates, checksum, from_parts, lex_file
from test_marian import START, django_pairs  # noqa: F401
from tiny_marian import PIECES

N = len(PIECES)
FIRST = 4
LISTS = [[], [5, 6], *([(7 * i + 3) % N, (5 * i + 1) % N, (i * i) % N] for i in range(2, N))]
EVERYTHING = lex_file([[] for _ in PIECES], N)
UNKNOWN = 1
SOURCES = [[3, 4, 5, 0], [9, 8, 7, 6, 0], [20, 0], [11, 11, 12, 13, 14, 15, 0]]


def shortlist(raw: bytes, source: int = N, target: int = N, shared: bool = True, eos: tuple[int, ...] = (0,)):
    fit = {"source_vocab": source, "target_vocab": target, "shared": shared, "eos_ids": list(eos)}
    return _core.Shortlist(raw, "lex.bin", **fit)


@st.composite
def _lists(draw):
    target = draw(st.integers(1, 200))
    ids = st.lists(st.integers(0, target - 1), max_size=12)
    return draw(st.lists(ids, min_size=1, max_size=40)), target, draw(st.integers(1, 250)), draw(st.booleans())


@given(_lists(), st.data())
def test_candidates_are_what_the_file_says(drawn, data):
    lists, target, first, shared = drawn
    source = data.draw(st.lists(st.integers(0, len(lists) + 3), max_size=20))
    found = shortlist(lex_file(lists, first), len(lists), target, shared).candidates(source)
    assert found == candidates(lists, first, source, target, shared)


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_is_seen(data):
    """The checksum leaves out the last four bytes where the number of ids is odd, as Marian's does."""
    raw = bytearray(lex_file(LISTS, FIRST))
    assert len(raw) % 8 == 0
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(jiffy.FormatError, match=r"^lex\.bin "):
        shortlist(bytes(raw))


@given(st.integers(0, len(EVERYTHING) - 1))
def test_any_shorter_file_is_refused(n):
    with pytest.raises(jiffy.FormatError, match=r"^lex\.bin "):
        shortlist(EVERYTHING[:n])


_OFFSETS = [0, 2, *([3] * (N - 1))]
BAD = {
    "magic": b"\0" * 8 + EVERYTHING[8:],
    "checksum": EVERYTHING[:8] + b"\0" * 8 + EVERYTHING[16:],
    "bytes": EVERYTHING + b"\0" * 8,
    "number of offsets": lex_file(LISTS[:-1], FIRST),
    "number of ids": from_parts(FIRST, 9, _OFFSETS, [1, 2, 3])[:40] + b"\xff" * 8 + bytes(300),
    "ids": from_parts(FIRST, 9, _OFFSETS, [1, 2, N]),
    "offsets": from_parts(FIRST, 9, [0, 3, *([2] * (N - 1))], [1, 2, 3]),
    "offsets: expected at most": from_parts(FIRST, 9, [0, 2, *([4] * (N - 1))], [1, 2, 3]),
    "offsets: expected at most 3": from_parts(FIRST, 9, [1 << 63] * (N + 1), [1, 2, 3]),
    "first": lex_file(LISTS, 0),
}


@pytest.mark.parametrize("field", BAD)
def test_what_cannot_be(tmp_path, field):
    tiny_marian.write_marian(tmp_path)
    (tmp_path / "lex.bin").write_bytes(BAD[field])
    with pytest.raises(jiffy.FormatError, match=rf"^lex\.bin {field}"):
        jiffy.load(tmp_path, shortlist=True)
    assert jiffy.load(tmp_path).generate("ab", max_tokens=3).n_tokens > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny student with a shortlist beside it."""
    path = tmp_path_factory.mktemp("student")
    tiny_marian.write_marian(path)
    (path / "lex.bin").write_bytes(lex_file(LISTS, FIRST))
    return path


def allowed(source: list[int]) -> list[int]:
    return candidates(LISTS, FIRST, source, N, shared=True)


FIELDS = [
    {},
    {"temperature": 1.5, "seed": 3, "logprobs": 4},
    {"temperature": 2.0, "top_k": 3, "n": 4},
    {"temperature": 1.0, "top_p": 0.7, "min_p": 0.02, "seed": 9},
    {"repetition_penalty": 1.7, "frequency_penalty": 0.4, "logprobs": 2},
    {"no_repeat_ngram_size": 1, "min_tokens": 5},
    {"bad_words_ids": ((0,), (5,), (2, 3))},
    {"n_beams": 4, "n": 4},
    {"n_beams": 3, "length_penalty": 0.4, "no_repeat_ngram_size": 2, "early_stopping": "never"},
]


def told(answer: jiffy.Completion | list[jiffy.Completion]) -> list:
    answers = answer if isinstance(answer, list) else [answer]
    return [(c.token_ids, c.score, c.finish_reason, c.logprobs) for c in answers]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("weights", ["f32", "bf16", "i8", "i8g32", "i4"])
def test_of_all_tokens_the_same_translations(folder, tmp_path, weights, fields):
    (tmp_path / "everything").write_bytes(EVERYTHING)
    # But for the one that decoders begin with, which the vocabulary doesn't have, and nobody says.
    free = jiffy.load(folder, weights=weights, shortlist=False, n_threads=2)
    listed = jiffy.load(folder, weights=weights, shortlist=tmp_path / "everything", n_threads=2)
    for source in SOURCES:
        got, expected = (model.generate(token_ids=source, max_tokens=20, **fields) for model in (listed, free))
        assert [c[0] for c in told(got)] == [c[0] for c in told(expected)]
        if "top_p" not in fields:
            assert told(got) == told(expected)


def test_all_tokens_may_translate_a_text_with_an_unknown_one(folder):
    """Of what its vocabulary doesn't have, a shortlist says nothing of use."""
    listed, free = (jiffy.load(folder, weights="i8", shortlist=one, n_threads=2) for one in (True, False))
    source = [3, UNKNOWN, 4, 0]
    assert (listed.reader.shortlist.covers(source), listed.reader.shortlist.covers([3, 4, 0])) == (False, True)
    got, expected = (model.generate(token_ids=source, max_tokens=20, logprobs=2) for model in (listed, free))
    assert told(got) == told(expected)
    assert not set(got.token_ids) <= set(allowed(source))
    company = listed.generate(token_ids=[SOURCES[0], source, SOURCES[1]], max_tokens=20, logprobs=2)
    assert told(company[1]) == told(expected)


def test_each_token_is_the_likeliest_of_its_candidates(folder):
    model = jiffy.load(folder, weights="i8g32", n_threads=2, shortlist=True)
    for source in SOURCES:
        answer = model.generate(token_ids=source, max_tokens=15, logprobs=3)
        rows = model.logits(source, [START, *answer.token_ids[:-1]])
        places = allowed(source)
        assert len(places) < N and rows.shape[1] == N + 1  # logits() knows of all tokens
        for token, row, logprob in zip(answer.token_ids, rows[:, places], answer.logprobs, strict=True):
            assert token == places[int(row.argmax())]
            true = row - row.max() - np.log(np.exp(np.float64(row - row.max())).sum())
            assert logprob.logprob == pytest.approx(true.max(), abs=1e-5)
            best = sorted(zip(-true, places, strict=True))[:3]
            assert [one.token_id for one in logprob.top] == [place for _, place in best]


@pytest.mark.parametrize("fields", FIELDS)
def test_as_if_all_other_tokens_were_impossible(folder, tmp_path, fields):
    """The oracle: a model whose bias says so, of one text at a time."""
    model = jiffy.load(folder, weights="f32", n_threads=2, shortlist=True)
    for source in SOURCES:
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        never = [token for token in range(N) if token not in allowed(source)]
        tiny_marian.write_marian(tmp_path / "m", never=never)
        oracle = jiffy.load(tmp_path / "m", weights="f32", n_threads=1)
        got, expected = (told(one.generate(token_ids=source, max_tokens=20, **fields)) for one in (model, oracle))
        assert [(ids, reason) for ids, _, reason, _ in got] == [(ids, reason) for ids, _, reason, _ in expected]
        assert {token for ids, *_ in got for token in ids} <= set(allowed(source))
        for (_, score, *_), (_, true, *_) in zip(got, expected, strict=True):
            assert score == (None if true is None else pytest.approx(true, rel=1e-5, abs=1e-5))


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("weights", ["f32", "bf16", "i8"])
def test_the_same_bits_in_any_company(folder, weights, fields):
    """Alone on one thread, and twenty at once on three, where texts come and go; in the memory of those before."""
    rng = np.random.default_rng(5)
    sources = [[*rng.integers(2, N, n).tolist(), 0] for n in rng.integers(1, 30, 20)]
    company = jiffy.load(folder, weights=weights, n_threads=3, max_batch=7, prefill_chunk=33, shortlist=True)
    alone = jiffy.load(folder, weights=weights, n_threads=1, fuse=False, shortlist=True)
    for _ in range(2):
        together = company.generate(token_ids=sources, max_tokens=12, **fields)
        assert [told(one) for one in together] == [
            told(alone.generate(token_ids=source, max_tokens=12, **fields)) for source in sources
        ]
    assert company._engine.idle() and company._engine.n_free_source_blocks == company._engine.n_source_blocks


@pytest.mark.parametrize("isa", jiffy.isas())
def test_the_same_bits_on_every_instruction_set(folder, isa):
    models = [
        jiffy.load(folder, weights="i8", isa=one, n_threads=2, kv_dtype="f32", shortlist=True)
        for one in (isa, "scalar")
    ]
    answers = [model.generate(token_ids=SOURCES, max_tokens=12, n_beams=3) for model in models]
    assert [told(one) for one in answers[0]] == [told(one) for one in answers[1]]


def test_forced_tokens_are_candidates(folder):
    model = jiffy.load(folder, n_threads=1, shortlist=True)
    unknown = next(one for one in range(N) if one not in allowed(SOURCES[0]))
    for token in (unknown, START):  # which the decoder has a logit for, and the vocabulary no text
        for fields in ({"logprobs": 2}, {"n_beams": 2}):
            forced = {"forced_bos_token_id": token, "forced_eos_token_id": N - 1, "max_tokens": 6, "min_tokens": 6}
            answer = model.generate(token_ids=SOURCES[0], **forced, **fields)
            assert (answer.token_ids[0], answer.token_ids[-1]) == (token, N - 1)
            assert all(np.isfinite(one.logprob) for one in answer.logprobs or [])


def test_a_source_with_the_token_that_decoders_begin_with(folder):
    """No list knows it."""
    answer = jiffy.load(folder, n_threads=2, shortlist=True).generate(token_ids=[START, 3, 0], max_tokens=4)
    assert set(answer.token_ids) <= set(allowed([3, 0]))


def test_which_file_is_taken(tmp_path, folder, capfd):
    raw = (folder / "lex.bin").read_bytes()

    def found(names: list[str], vocabulary: str = "vocab.spm", **options) -> str | None:
        place = tmp_path / "m"
        shutil.rmtree(place, ignore_errors=True)
        tiny_marian.write_marian(place)
        (place / "vocab.spm").rename(place / vocabulary)
        for name in names:
            (place / name).write_bytes(raw)
        return jiffy.load(place / "model.bin", n_threads=1, **options).info()["shortlist"]

    assert found([]) is None and found(["lex.bin"]) is None
    for names, vocabulary, expected in (
        (["lex.bin"], "vocab.spm", "lex.bin"),
        (["lex.50.50.enpt.s2t.bin"], "vocab.spm", "lex.50.50.enpt.s2t.bin"),
        (["lex.50.50.enpt.s2t.bin", "lex.50.50.enpt.t2s.bin"], "vocab.spm", "lex.50.50.enpt.s2t.bin"),
        (["lex.50.50.enpt.s2t.bin"], "vocab.enpt.spm", "lex.50.50.enpt.s2t.bin"),
        (["lex.50.50.pten.s2t.bin", "lex.enpt.bin"], "vocab.enpt.spm", "lex.enpt.bin"),
    ):
        assert found(names, vocabulary, shortlist=True) == expected
    assert found([], shortlist=folder / "lex.bin") == "lex.bin"
    assert found(["lex.a.bin", "lex.b.bin"], shortlist=str(tmp_path / "m" / "lex.b.bin")) == "lex.b.bin"
    assert capfd.readouterr().err == ""
    for names, vocabulary in (([], "vocab.spm"), (["lex.50.50.pten.s2t.bin"], "vocab.enpt.spm")):
        with pytest.raises(jiffy.FormatError, match="shortlist"):
            found(names, vocabulary, shortlist=True)
    with pytest.raises(jiffy.FormatError, match="shortlist"):
        found(["lex.a.bin", "lex.b.bin"], shortlist=True)
    assert "of lex.a.bin, lex.b.bin no shortlist is used" in capfd.readouterr().err


def test_arguments(folder, random_folder):
    for wrong in (None, 3, ["lex.bin"]):
        with pytest.raises(jiffy.ParameterError, match="shortlist"):
            jiffy.load(folder, shortlist=wrong)
    with pytest.raises(jiffy.FormatError, match=r"nowhere\.bin"):
        jiffy.load(folder, shortlist=folder / "nowhere.bin")
    with pytest.raises(jiffy.ParameterError, match="shortlist"):
        jiffy.load(random_folder, shortlist=folder / "lex.bin")


def test_a_packed_file_keeps_its_shortlist(folder, tmp_path):
    jiffy.pack(folder, tmp_path / "packed.jiffy")
    packed, free = (jiffy.load(tmp_path / "packed.jiffy", shortlist=one, n_threads=1) for one in (True, False))
    assert (packed.info()["shortlist"], free.info()["shortlist"]) == ("lex.s2t.bin", None)
    for model, shortlist in ((packed, True), (free, False)):
        fresh = jiffy.load(folder, shortlist=shortlist, n_threads=1)
        for fields in ({}, {"n_beams": 3}):
            answers = [one.generate(token_ids=SOURCES, max_tokens=9, **fields) for one in (model, fresh)]
            assert [told(one) for one in answers[0]] == [told(one) for one in answers[1]]


@pytest.mark.usefixtures("cache")
def test_the_cache_knows_of_another_shortlist(tmp_path):
    tiny_marian.write_marian(tmp_path / "m")
    for source in (tmp_path / "m", tmp_path / "m" / "model.bin"):
        for n_first in (FIRST, 9):
            (tmp_path / "m" / "lex.bin").write_bytes(lex_file(LISTS, n_first))
            for _ in range(2):
                reader = jiffy.load(source, n_threads=1, shortlist=True).reader
                assert reader.shortlist.candidates([2]) == candidates(LISTS, n_first, [2], N, True)
            assert jiffy.load(source, shortlist=False).reader.shortlist is None


def test_logits_and_check_are_of_all_tokens(folder):
    models = [jiffy.load(folder, shortlist=one, n_threads=1) for one in (True, False)]
    assert_same(*(model.logits(SOURCES[0], [START, 3, 4]) for model in models))


@pytest.mark.parametrize("weights", ["f32", None])
def test_translations_with_a_real_shortlist(django_pairs, weights):  # noqa: F811
    """It was seen to cost 0.7 to 1.0 of BLEU."""
    model = jiffy.load("marian-en-pt", weights=weights, shortlist=True, cache=False)
    assert model.info()["shortlist"] == "lex.50.50.enpt.s2t.bin"
    sources = [source for source, _ in django_pairs]
    answers = model.generate(sources)
    for source, answer in zip(sources, answers, strict=True):
        ids = model.reader.shortlist.candidates(model.reader.ids(source))
        assert 50 < len(ids) < 3000
        assert set(answer.token_ids) <= set(ids) or not model.reader.shortlist.covers(model.reader.ids(source))
    bleu = sacrebleu.corpus_bleu([c.text for c in answers], [[target for _, target in django_pairs]]).score
    assert bleu >= 47.0, bleu


def test_the_checksum_is_that_of_real_files():
    path = next(jiffy.hub.resolve_model("marian-en-pt").glob("lex*.bin"))
    raw = path.read_bytes()
    assert int.from_bytes(raw[8:16], "little") == checksum(raw[16:])
