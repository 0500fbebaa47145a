"""Packed encoders and encoder-decoders: one file alone, the same bits, every weight once; kept by the cache, too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

import jiffy
import tiny_encoders
import tiny_marian
import tiny_seq2seq
from compare import assert_same
from jiffy import tasks
from jiffy.errors import FormatError, ParameterError, Unsupported
from packed_head import read_head, write_head
from test_pack_cache import files

TEXTS = ["abc, de", "f", "a few words more than those"]
SOURCE, TARGET = [3, 4, 5, 6], [1, 7, 9]
SEQ2SEQ = [*tiny_seq2seq.MODELS, "student", "attention", "opus"]


def write_seq2seq(folder: Path, name: str) -> None:
    if name in tiny_seq2seq.MODELS:
        tiny_seq2seq.write_seq2seq(folder, name)
    elif name != "opus":
        tiny_marian.write_marian(folder, recurrent=name == "student", int8=True)
    else:
        tiny_seq2seq.write_seq2seq(folder, "marian", eos_token_id=0, forced_eos_token_id=0)
        (folder / "tokenizer.json").unlink()
        for side in ("source", "target"):
            (folder / f"{side}.spm").write_bytes(tiny_marian.spm_file(tiny_marian.PIECES))
        (folder / "vocab.json").write_text(json.dumps({text: i for i, (text, *_) in enumerate(tiny_marian.PIECES)}))


def moved(folder: Path, **options: object) -> Path:
    """Packs the model of a folder, and deletes the folder."""
    out = folder.parent / "packed.jiffy"
    jiffy.pack(folder, out, **options)
    shutil.rmtree(folder)
    return out


def names_of(path: Path) -> list[str]:
    with safe_open(path, framework="np") as file:
        return list(file.keys())


def assert_same_encoder(a: jiffy.Encoder, b: jiffy.Encoder) -> None:
    assert_same(a.encode(TEXTS), b.encode(TEXTS))
    for pooling in ("mean", "first", "last", "max"):
        for unit in (False, True):
            both = (one.encode(TEXTS[0], pooling=pooling, normalize=unit) for one in (a, b))
            assert_same(*both)
    assert_same(a.hidden_states(TEXTS[2]), b.hidden_states(TEXTS[2]))
    if a.config.head.task:
        assert_same(a.scores(TEXTS[2]), b.scores(TEXTS[2]))


@pytest.mark.parametrize("task", tiny_encoders.TASKS)
@pytest.mark.parametrize("name", tiny_encoders.CONFIGS)
def test_an_encoder_needs_no_other_file(tmp_path, name, task):
    tiny_encoders.write(tmp_path / "m", name, task)
    fresh = jiffy.load_encoder(tmp_path / "m", weights="i8")
    again = jiffy.load_encoder(moved(tmp_path / "m", weights="i8"))
    assert again.config == fresh.config and again.labels == fresh.labels
    assert again.info() == {**fresh.info(), "path": str(again.path)}
    assert_same_encoder(fresh, again)


@pytest.mark.parametrize("weights", [None, *jiffy.formats()])
def test_every_format_of_an_encoder(tmp_path, weights):
    tiny_encoders.write(tmp_path / "m", "modernbert", "mask")
    fresh = jiffy.load(tmp_path / "m", weights=weights, head="i8")
    out = moved(tmp_path / "m", weights=weights, head="i8")
    assert_same_encoder(fresh, jiffy.load(out))
    assert_same_encoder(fresh, jiffy.load(out, fuse=False, n_threads=1, context=100))


def test_pooling_and_context_are_those_of_sentence_transformers(tmp_path):
    tiny_encoders.write(tmp_path / "m", "bert", "token")
    tiny_encoders.write_modules(tmp_path / "m", True, {"pooling_mode_cls_token": True})
    (tmp_path / "m" / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    fresh = jiffy.load(tmp_path / "m")
    again = jiffy.load(moved(tmp_path / "m"))
    assert again.context == fresh.context == 77 and again.embedding == fresh.embedding
    assert_same(again.encode(TEXTS), fresh.encode(TEXTS))
    assert_same(again.encode(TEXTS), again.encode(TEXTS, pooling="first", normalize=True))
    assert jiffy.load(again.path, context=514).encode("a " * 250).shape == (36,)


def test_heads_tasks_and_masks(tmp_path):
    tiny_encoders.write(tmp_path / "mask", "roberta", "mask")
    fresh = jiffy.load_encoder(tmp_path / "mask")
    expected = fresh.fill_mask("a [MASK] b")
    assert jiffy.load_encoder(moved(tmp_path / "mask")).fill_mask("a [MASK] b") == expected
    tiny_encoders.write(tmp_path / "sport", "bert", "sequence")
    expected = tasks.text_classification(TEXTS, jiffy.load_encoder(tmp_path / "sport"))
    out = moved(tmp_path / "sport")
    assert tasks.text_classification(TEXTS, str(out)) == expected
    assert_same(tasks.embed(TEXTS, model=out), jiffy.load(out).encode(TEXTS))
    pair = ("one text", "and another")
    assert_same(jiffy.load(out).scores(pair), jiffy.load_encoder(out).scores(pair))


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_an_encoder_decoder_needs_no_other_file(tmp_path, name):
    write_seq2seq(tmp_path / "m", name)
    for weights in ("f32", "i8", None):
        fresh = jiffy.load(tmp_path / "m", weights=weights)
        out = tmp_path / f"{weights}.jiffy"
        jiffy.pack(tmp_path / "m", out, weights=weights)
        again = jiffy.load(out)
        assert again.config == fresh.config
        assert again.info() == {**fresh.info(), "path": str(out)}
        assert_same(fresh.logits(SOURCE, TARGET), again.logits(SOURCE, TARGET))
        for fields in ({}, {"n_beams": 3, "n": 2}):
            asked = {"token_ids": [SOURCE, SOURCE[:2]], "max_tokens": 9, **fields}
            assert fresh_texts(again, asked) == fresh_texts(fresh, asked)
    shutil.rmtree(tmp_path / "m")
    again = jiffy.load(out, n_threads=1, context=32)
    assert again.reader.source.encode("ab abc, é") == fresh.reader.source.encode("ab abc, é")
    if not again.reader.speaks_languages:
        assert again.generate("ab abc", max_tokens=5).text == fresh.generate("ab abc", max_tokens=5).text


def fresh_texts(model: jiffy.Seq2Seq, asked: dict[str, object]) -> list[object]:
    found = model.generate(**asked)
    return [[(c.text, c.token_ids, c.score) for c in (one if isinstance(one, list) else [one])] for one in found]


@pytest.mark.parametrize(
    ("write", "shared"),
    [
        (lambda folder: tiny_encoders.write(folder, "bert", "mask"), "embed_tokens.weight"),
        (lambda folder: tiny_encoders.write(folder, "albert_groups"), "layers.3.up.weight"),
        (lambda folder: tiny_marian.write_marian(folder), "embed_tokens.weight"),
        (lambda folder: write_seq2seq(folder, "t5_gated"), "embed_tokens.weight"),
    ],
)
def test_no_weight_is_stored_twice(tmp_path, write: Callable[[Path], object], shared: str):
    write(tmp_path / "m")
    out = moved(tmp_path / "m", weights="f32")
    assert sum(name.startswith(shared) for name in names_of(out)) == 1
    head = read_head(out)
    assert len(head["programs"]) > 1
    places = [(p["tensor"], p["offset"]) for p in head["parameters"] if p["kind"] != 2]
    assert len(places) == len(set(places))
    used = {p for program in head["programs"] for at in program["instructions"] for p in at["parameters"]} - {-1}
    assert used == set(range(len(head["parameters"])))
    with safe_open(out, framework="np") as file:
        raw = [file.get_tensor(t["name"]).tobytes() for t in head["tensors"][head["n_attachments"] :]]
    assert len(raw) == len(set(raw))


def test_two_vocabularies_of_marian(tmp_path):
    tiny_marian.write_marian(tmp_path / "m")
    vocabulary = tmp_path / "m" / "vocab.spm"
    (tmp_path / "m" / "vocab.trg.spm").write_bytes(tiny_marian.spm_file(tiny_marian.PIECES[:-1]))
    vocabulary.rename(tmp_path / "m" / "vocab.src é.spm")
    fresh = jiffy.load(tmp_path / "m")
    again = jiffy.load(moved(tmp_path / "m"))
    assert again.reader.source.vocab_size == fresh.reader.source.vocab_size == 1 + again.tokenizer.vocab_size


def test_positions_end_where_a_packed_table_does(tmp_path):
    """Sinusoids are made for a context; whoever wants more packs anew."""
    write_seq2seq(tmp_path / "m", "marian")
    out = moved(tmp_path / "m", context=32)
    assert jiffy.load(out).info()["context"] == 32
    with pytest.raises(ParameterError, match="context: expected at most the model's 32 positions"):
        jiffy.load(out, context=33)


def test_another_kind_of_model_is_refused(tmp_path, random_folder):
    tiny_encoders.write(tmp_path / "m", "bert")
    encoder = moved(tmp_path / "m")
    jiffy.pack(random_folder, tmp_path / "llm.jiffy")
    with pytest.raises(Unsupported, match="expected an encoder, found a language model"):
        jiffy.load_encoder(tmp_path / "llm.jiffy")
    with pytest.raises(Unsupported, match="a packed file"):
        jiffy.pack(encoder, tmp_path / "again.jiffy")
    with pytest.raises(ParameterError, match="weights: expected None: a packed file has its formats"):
        jiffy.load_encoder(encoder, weights="i8")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("bert", b'"dim": 36', b'"dim": 34', "config width of hidden: expected 36, as in its program"),
        ("bert", b'"sport"', b'7      ', "config labels|config head labels"),
        ("bert", b'"news", ', b'        ', "config width of head: expected 3, as in its program, found 2"),
        ("bert", b'"vocab_size": 87', b'"vocab_size": 88', "config vocab_size: expected 87"),
        ("bert", b'"n_buckets": 0', b'"n_buckets":-1', "config n_buckets: expected an integer"),
        ("bert", b'"pooling": "mean"', b'"pooling":     07', "config"),
        ("student", b'"n_heads": 4', b'"n_heads": 0', "config encoder n_heads: expected an integer"),
        ("student", b'"fields": {}', b'"fields": []', "config generation fields: expected an object"),
        ("marian", b'"n_beams": 1', b'"n_beams": 0', "config generation n_beams: expected an integer"),
        ("marian", b'"n_beams"', b'"m_beams"', "config generation m_beams: expected one of"),
    ],
)  # fmt: skip
def test_a_config_that_is_another(tmp_path, name, old, new, message):
    if name == "bert":
        tiny_encoders.write(tmp_path / "m", name, "sequence")
    else:
        write_seq2seq(tmp_path / "m", name)
    out = moved(tmp_path / "m")
    spoil_config(out, old, new)
    with pytest.raises(FormatError, match=message):
        jiffy.load(out)


def spoil_config(path: Path, old: bytes, new: bytes) -> None:
    """With a checksum that fits."""
    head = read_head(path)
    raw = path.read_bytes()
    n = head["tensors"][0]["bytes"]
    begin = raw.index(b'{"model_type"')
    config = raw[begin : begin + n].replace(old, new, 1)
    assert len(config) == n and config != raw[begin : begin + n]
    path.write_bytes(raw[:begin] + config + raw[begin + n :])
    head["tensors"][0]["checksums"] = [jiffy._core.checksum(config)]
    write_head(path, head)


def test_a_program_that_is_missing(tmp_path):
    tiny_encoders.write(tmp_path / "m", "bert", "sequence")
    out = moved(tmp_path / "m")
    head = read_head(out)
    for program in head["programs"]:
        program["name"] = {"max": "m4x", "head": "h3ad"}.get(program["name"], program["name"])
    write_head(out, head)
    with pytest.raises(FormatError, match="programs: expected head, found hidden, h3ad, mean"):
        jiffy.load(out)
    head["programs"][1]["name"] = "head"
    write_head(out, head)
    with pytest.raises(FormatError, match="expected a program for max, found none"):
        jiffy.load(out).encode("a", pooling="max")


def test_the_second_load_of_an_encoder_reads_what_the_first_packed(cache, tmp_path, monkeypatch, capfd):
    tiny_encoders.write(tmp_path / "m", "mpnet", "sequence")
    fresh = jiffy.load_encoder(tmp_path / "m", weights="i8")
    assert len(files(cache)) == 1
    capfd.readouterr()
    monkeypatch.setattr(jiffy.prepare, "pack_checkpoint", None)  # there is nothing to pack
    again = jiffy.load_encoder(tmp_path / "m", weights="i8", n_threads=1, context=20)
    assert again.path == fresh.path and again.info()["formats"] == fresh.info()["formats"]
    assert_same_encoder(fresh, jiffy.load(tmp_path / "m", weights="i8"))
    assert capfd.readouterr().err == ""
    with pytest.raises(TypeError):
        jiffy.load_encoder(tmp_path / "m", weights="i8", cache=False)
    assert len(files(cache)) == 1


@pytest.mark.parametrize("name", ["marian", "student", "student.bin"])
def test_the_second_load_of_an_encoder_decoder(cache, tmp_path, monkeypatch, name, capfd):
    write_seq2seq(tmp_path / "m", name.removesuffix(".bin"))
    source = tmp_path / "m" / "model.bin" if name.endswith(".bin") else tmp_path / "m"
    shorter = jiffy.load(source, context=16)  # whose table of sinusoids is too short for the next
    fresh = jiffy.load(source)
    assert len(files(cache)) == 1
    assert_same(shorter.logits(SOURCE, TARGET), fresh.logits(SOURCE, TARGET))
    capfd.readouterr()
    monkeypatch.setattr(jiffy.prepare, "pack_checkpoint", None)
    for context in (None, 16):
        again = jiffy.load(source, context=context)
        assert_same(again.logits(SOURCE, TARGET), fresh.logits(SOURCE, TARGET))
        assert again.info()["context"] == (context or fresh.info()["context"])
    assert capfd.readouterr().err == ""


def _touch_vocabulary(folder: Path) -> None:
    (folder / "vocab.spm").write_bytes(tiny_marian.spm_file([*tiny_marian.PIECES[:-1], ("x", -3.0, 1)]))


@pytest.mark.parametrize(
    ("write", "change"),
    [
        (
            lambda folder: tiny_encoders.write_modules(folder, False, {"pooling_mode_cls_token": True}),
            lambda folder: tiny_encoders.write_modules(folder, False, {"pooling_mode_max_tokens": True}),
        ),
        (lambda folder: None, lambda folder: tiny_encoders.write_modules(folder, True, {"pooling_mode": "mean"})),
        (tiny_marian.write_marian, _touch_vocabulary),
        (tiny_marian.write_marian, lambda folder: tiny_marian.write_marian(folder, seed=1)),
    ],
)
@pytest.mark.parametrize("file", ["", "model.bin"])
def test_a_stale_file_is_made_anew(cache, tmp_path, write, change, file, capfd):
    folder = tmp_path / "m"
    if write is not tiny_marian.write_marian:
        tiny_encoders.write(folder, "bert")
        file = ""
    write(folder)
    jiffy.load(folder / file)
    change(folder)
    capfd.readouterr()
    model = jiffy.load(folder / file)
    assert "its files, or jiffy, have changed since" in capfd.readouterr().err
    fresh = jiffy.load(folder / file, cache=False)
    assert model.config == fresh.config and len(files(cache)) == 1
    if isinstance(model, jiffy.Encoder):
        assert_same(model.encode(TEXTS), fresh.encode(TEXTS))
    else:
        assert model.tokenizer.token_to_id("x") == fresh.tokenizer.token_to_id("x")
        assert_same(model.logits(SOURCE, TARGET), fresh.logits(SOURCE, TARGET))


def test_a_damaged_file_is_made_anew(cache, tmp_path, capfd):
    tiny_encoders.write(tmp_path / "m", "bert")
    expected = jiffy.load(tmp_path / "m").encode(TEXTS)
    (path,) = files(cache)
    raw = bytearray(path.read_bytes())
    raw[-4090] ^= 64
    path.write_bytes(raw)
    capfd.readouterr()
    assert_same(jiffy.load(tmp_path / "m").encode(TEXTS), expected)
    assert f"jiffy: packing {tmp_path / 'm'} anew: {path.name}" in capfd.readouterr().err
    assert_same(jiffy.load(tmp_path / "m").encode(TEXTS), expected)
    assert capfd.readouterr().err == ""


def test_real_models(tmp_path, botchan_text):
    lines = [line for line in botchan_text.splitlines() if len(line) > 30][:50]
    fresh = jiffy.load_encoder(weights="i8g32")
    jiffy.pack("minilm-l6", tmp_path / "minilm.jiffy", weights="i8g32")
    assert_same(jiffy.load_encoder(tmp_path / "minilm.jiffy").encode(lines), fresh.encode(lines))
    student = jiffy.load("marian-en-pt")
    jiffy.pack("marian-en-pt", tmp_path / "student.jiffy")
    again = jiffy.load(tmp_path / "student.jiffy")
    for fields in ({}, {"n_beams": 4}):
        told = [[(c.text, c.score) for c in model.generate(lines[:10], **fields)] for model in (student, again)]
        assert told[0] == told[1]
    there = tasks.machine_translation("The house is big.", "pt", model=tmp_path / "student.jiffy")
    assert there == student.generate("The house is big.").text
