"""Marian's own files: tiny ones against float64, and the students that jiffy fetches by what they are known for."""

from __future__ import annotations

import ast
import re
import struct

import numpy as np
import pytest
import sacrebleu
import sentencepiece

import jiffy
import tiny_marian
from compare import assert_close, assert_same
from jiffy.hub import PinnedFile, fetch_package_files, resolve_model
from jiffy.named_files import FilesOfFolder
from jiffy.tokenizer import Tokenizer
from jiffy.tokenizer_spm import vocabulary_from_spm
from tiny_marian import PIECES

START = len(PIECES)  # the id behind the vocabulary
_PO = [
    ("conf/locale", "django", 33_336, "fcb907464aa8bd334d1f96a70b72291fca72c1774d358fe54d9d989bf6963504"),
    ("contrib/admin/locale", "django", 21_479, "42db8788edf29eb8cfbc11c92babdd38bd0315811ece80497c7551b2e74bd202"),
    ("contrib/admin/locale", "djangojs", 7_227, "57dad8ea2be20dc9d259819b688008f489d6fd54bcf806111edbce56b126116b"),
    ("contrib/admindocs/locale", "django", 7_538, "106e3110b67c7a6508581efc730f2015e8aa4e237d51d02e11a5c7c8fc8db481"),
    ("contrib/auth/locale", "django", 9_883, "1ee2fe1e6d6e495281dd188c0850274c6d2c5e914892a51f1d09d2d45ef58cf6"),
]


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("int8", [True, False])
def test_logits_of_a_tiny_model(tmp_path, int8, recurrent):
    """In chunks of 1 token and of many; states go from one to the next."""
    weights = tiny_marian.write_marian(tmp_path, int8=int8, recurrent=recurrent)
    rng = np.random.default_rng(1)
    source, target = rng.integers(2, len(PIECES), 9).tolist(), rng.integers(2, len(PIECES), 70).tolist()
    expected = tiny_marian.logits(weights, source, [None, *target])
    several = []
    for chunk in (1, 7, 512):
        model = jiffy.load(tmp_path, weights="f32", n_threads=2, prefill_chunk=chunk)
        several.append(model.logits(source, [START, *target]))
        assert_close(several[-1][:, :-1], expected, 1e-4)
        assert (several[-1][:, -1] < -1e29).all()  # nobody says what a decoder begins with
    assert_same(several[1], several[0])
    assert_same(several[2], several[0])


def test_states_go_with_beams_and_come_back_after_preemption(tmp_path):
    """Two texts whose beams need 66 blocks or more, of which there are 64."""
    tiny_marian.write_marian(tmp_path)
    model = jiffy.load(tmp_path, weights="f32", n_threads=2, max_batch=4, context=1024)
    sources = [[3, 4, 5, 0], [9, 8, 7, 6, 0]]
    fields = {"n_beams": 2, "max_tokens": 1000, "min_tokens": 999, "no_repeat_ngram_size": 3}
    alone = [model.generate(token_ids=one, **fields) for one in sources]
    together = model.generate(token_ids=sources, **fields)
    assert [(c.token_ids, c.score) for c in together] == [(c.token_ids, c.score) for c in alone]
    assert len({*alone[0].token_ids}) > 3
    assert model._engine.n_free_blocks == model._engine.n_blocks


@pytest.mark.parametrize("isa", jiffy.isas())
def test_the_same_bits_on_every_instruction_set(tmp_path, isa):
    tiny_marian.write_marian(tmp_path)
    source, target = [3, 4, 5, 0], [START, 4, 6, 8, 9, 12, 3]
    models = [jiffy.load(tmp_path, weights="i8", isa=one, n_threads=2, kv_dtype="f32") for one in (isa, "scalar")]
    assert_same(*(model.logits(source, target) for model in models))


def test_a_file_alone_or_its_folder(tmp_path):
    tiny_marian.write_marian(tmp_path)
    texts = [jiffy.load(path).generate("ab abc", max_tokens=5) for path in (tmp_path, tmp_path / "model.bin")]
    assert texts[0].token_ids == texts[1].token_ids


def test_a_model_without_a_vocabulary(tmp_path):
    tiny_marian.write_marian(tmp_path)
    (tmp_path / "vocab.spm").unlink()
    with pytest.raises(jiffy.FormatError, match="vocabularies"):
        jiffy.load(tmp_path / "model.bin")


def _break(name: str, raw: bytes) -> bytes:
    head = struct.pack("<QQ", 1, 1 << 40)
    return {
        "empty": b"",
        "cut in its head": raw[:100],
        "cut in its data": raw[:-1],
        "too many tensors": head + raw[16:],
        "a long name": raw[:16] + struct.pack("<Q", 1 << 60) + raw[24:],
        "noise": bytes(range(256)) * 40,
    }[name]


@pytest.mark.parametrize(
    "how", ["empty", "cut in its head", "cut in its data", "too many tensors", "a long name", "noise"]
)
def test_damaged_model_files(tmp_path, how):
    tiny_marian.write_marian(tmp_path)
    path = tmp_path / "model.bin"
    path.write_bytes(_break(how, path.read_bytes()))
    with pytest.raises(jiffy.FormatError, match=r"model\.bin"):
        jiffy.load(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"\x0a", b"\x0a\xff", b"\xff" * 40, b"\x0a\x02\x0a\x7f", b"\x0c" * 9])
def test_damaged_vocabularies(tmp_path, raw):
    tiny_marian.write_marian(tmp_path)
    (tmp_path / "vocab.spm").write_bytes(raw)
    with pytest.raises(jiffy.FormatError, match=r"vocab\.spm"):
        jiffy.load(tmp_path)


def test_vocabularies_of_another_kind(tmp_path):
    tiny_marian.write_marian(tmp_path)
    (tmp_path / "vocab.spm").write_bytes(tiny_marian.spm_file(PIECES, model_type=2))
    with pytest.raises(jiffy.Unsupported, match="model_type"):
        jiffy.load(tmp_path)


def test_a_description_of_what_is_not_computed_here(tmp_path):
    tiny_marian.write_marian(tmp_path)
    path = tmp_path / "model.bin"
    path.write_bytes(path.read_bytes().replace(b"transformer-postprocess: dan", b"transformer-postprocess: nad"))
    with pytest.raises(jiffy.Unsupported, match="transformer-postprocess"):
        jiffy.load(tmp_path)


ODD_TEXTS = [
    *(
        "",
        " ",
        "  a  b ",
        "\n",
        "a\nb\t c",
        "ｆｕｌｌ　ｗｉｄｔｈ ①",
        "é",
        "e\u0301 n\u0303",
        "日本語テキスト",
        "😀 👩‍👩‍👧",
        "ﬁ\u0301 ﬂ½",
    ),
    *(
        "\u00a0nbsp\u00a0",
        "</s> <unk> x",
        "▁hello ▁▁ x",
        "a" * 300,
        "\x00\x01",
        "don't - “quotes”…",
        "\u200b zero",
        "½\u0301½",
    ),
]


@pytest.mark.parametrize("pair", ["en-pt", "pt-en"])
def test_tokens_are_those_of_sentencepiece(pair, botchan_text):
    """Also where cuts have equal sums of scores but for their rounding, as in "......."."""
    path = next(resolve_model(f"marian-{pair}").glob("*.spm"))
    own = Tokenizer(vocabulary_from_spm(FilesOfFolder(path.parent), path.name), path.name)
    other = sentencepiece.SentencePieceProcessor(str(path))
    for text in [*ODD_TEXTS, *botchan_text.splitlines(), botchan_text[:50_000]]:
        assert own.encode(text) == other.encode(text), text[:80]
    assert own.decode(own.encode("Olá, mundo!")) == "Olá, mundo!"


@pytest.fixture(scope="session")
def django_pairs() -> list[tuple[str, str]]:
    """60 sentences of 6 words or more, without placeholders, and what they are in Portuguese."""
    specs = [
        PinnedFile(
            "django==5.2.19",
            "wheel",
            f"*/{place}/pt_BR/LC_MESSAGES/{name}.po",
            sha256,
            size,
            name,
            f"{place}/{name}.po",
        )
        for place, name, size, sha256 in _PO
    ]
    pairs = [pair for path in fetch_package_files(specs) for pair in _messages(path.read_text(encoding="utf-8"))]
    return [(a, b) for a, b in pairs if len(a.split()) >= 6 and not re.search(r"[%{}<>\n]", a + b)][:60]


def _messages(text: str):
    for entry in text.split("\n\n"):
        if "msgid_plural" in entry or re.search("^#,.*fuzzy", entry, re.M):
            continue
        found = [
            "".join(ast.literal_eval(part) for part in re.findall(r'^"?.*?(".*")$', lines, re.M))
            for lines in re.split(r"^msgstr ", entry, flags=re.M)
        ]
        head = re.split(r"^msgid ", entry, flags=re.M)
        if len(found) == 2 and len(head) == 2:
            source = "".join(ast.literal_eval(p) for p in re.findall(r'^(".*")$', head[1].split("msgstr ")[0], re.M))
            if source and found[1]:
                yield source, found[1]


@pytest.mark.parametrize("weights", ["f32", None])
def test_translations_are_as_good_as_is_known(django_pairs, weights):
    """BLEU 48.6 is what the students were seen to reach; None is 8 bits, as in their files. With their shortlist:
    tests/test_shortlist.py."""
    assert len(django_pairs) == 60
    model = jiffy.load("marian-en-pt", weights=weights)
    answers = model.generate([source for source, _ in django_pairs])
    assert {c.finish_reason for c in answers} == {"stop"}
    bleu = sacrebleu.corpus_bleu([c.text for c in answers], [[target for _, target in django_pairs]]).score
    assert bleu >= (48.5 if weights else 48.0), bleu
