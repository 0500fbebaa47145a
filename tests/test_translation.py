"""Documents in another language, and in fewer words: the task functions and their commands."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

import jiffy
import tiny_marian
import tiny_seq2seq
from jiffy import tasks
from jiffy.languages import language, language_token
from jiffy.tasks.sentences import LONGEST, Document


@pytest.fixture(scope="module")
def student() -> jiffy.Seq2Seq:
    return jiffy.load("marian-en-pt", n_threads=2)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("marian")
    tiny_marian.write_marian(folder)
    return folder


CUTS = {
    'Hi. How are you? "Fine," he said. Dr. Smith came.': ["Hi.", "How are you?", '"Fine," he said.', "Dr. Smith came."],
    "J. R. Smith paid 3.5 euros... Yes. See p. 4.": ["J. R. Smith paid 3.5 euros...", "Yes.", "See p. 4."],
    "A line\nanother\r\n\r\n- an item.": ["A line", "another", "- an item."],
    "これは文です。次の文です！": ["これは文です。", "次の文です！"],
    "¿Qué? ¡Sí! «Otro.» Fin": ["¿Qué?", "¡Sí!", "«Otro.»", "Fin"],
    " \n ": [],
    "": [],
}


@pytest.mark.parametrize("text", CUTS)
def test_sentences(text):
    assert Document.of(text).sentences == CUTS[text]


def test_documents_come_back_as_they_were():
    rng = random.Random(0)
    texts = ["".join(rng.choices("aA. !?\n\r\t\"'”)(«»…。！」1,é ", k=rng.randrange(30))) for _ in range(5000)]
    for text in [*texts, "x" * 5000, "word, " * 600, "A. " * 50_000, ". " * 50_000, " " * 200_000, "\n" * 200_000]:
        document = Document.of(text)
        assert document.with_sentences(document.sentences) == text
        assert all(sentence and sentence == sentence.strip() for sentence in document.sentences)
    assert max(map(len, Document.of("word, " * 6000).sentences)) <= LONGEST


def test_a_document_keeps_its_shape(student):
    text = "Hello. The house is big!\n\n  * The cat sleeps.\nGood night.\n"
    found = tasks.machine_translation(text, "Portuguese", "English", student)
    single = [c.text for c in student.generate(["Hello.", "The house is big!", "* The cat sleeps.", "Good night."])]
    assert found == f"{single[0]} {single[1]}\n\n  {single[2]}\n{single[3]}\n"
    assert "casa" in found and "gato" in found


def test_one_text_a_list_and_an_iterator(student):
    texts = ["The book is on the table.", "", "Thank you. See you soon!"]
    found = tasks.machine_translation(texts, "pt", model=student)
    assert found == [tasks.machine_translation(text, "pt", model=student) for text in texts]
    assert list(tasks.machine_translation(iter(texts), "pt", model=student)) == found
    assert found[1] == "" and tasks.machine_translation([], "pt", model=student) == []
    beams = tasks.machine_translation(texts[0], "pt", model=student, n_beams=4)
    assert beams == student.generate(texts[0], n_beams=4).text


def test_both_directions_have_a_model_of_their_own():
    there = tasks.machine_translation("The house is big.", "pt")
    assert "casa" in there and "house" in tasks.machine_translation(there, "en", "pt")


def test_what_is_wrong_with_a_text_is_its_own_affair(student):
    texts = ["The house is big.", 7, "é\ud800", "x" * 1_000_000, "Good night."]
    found = tasks.machine_translation(texts, "pt", model=student, errors="return")
    kinds = [type(one) for one in found]
    assert kinds == [str, jiffy.ParameterError, jiffy.ParameterError, jiffy.ContextOverflow, str]
    assert found[0] == tasks.machine_translation(texts[0], "pt", model=student)
    results = tasks.machine_translation(iter(texts[:2] + texts[4:]), "pt", model=student)
    assert isinstance(next(results), str)
    with pytest.raises(jiffy.ParameterError):
        next(results)
    assert next(results) == found[4]
    assert student._engine.n_free_source_blocks == student._engine.n_source_blocks


def test_a_megabyte_of_words_is_translated_piece_by_piece(tiny_folder):
    model = jiffy.load(tiny_folder, n_threads=2)
    found = tasks.machine_translation("ab abc, " * 125_000, "pt", model=model, max_tokens=1)
    assert found.count(" ") >= 1000


@pytest.mark.parametrize(
    ("arguments", "kind", "name"),
    [
        (("a", "Klingon"), jiffy.Unsupported, "target_language"),
        (("a", "pt", "pt"), jiffy.Unsupported, "target_language"),
        (("a", ""), jiffy.ParameterError, "target_language"),
        (("a", "pt", 3), jiffy.ParameterError, "source_language"),
        (("a", "pt", "en", 3), jiffy.ParameterError, "model"),
        (("a", "pt", "en", "smollm2-135m"), jiffy.Unsupported, "smollm2-135m"),
    ],
)
def test_bad_arguments(arguments, kind, name):
    with pytest.raises(kind, match=name):
        tasks.machine_translation(*arguments)
    with pytest.raises(jiffy.ParameterError, match="errors"):
        tasks.machine_translation("a", "pt", errors="ignore")
    with pytest.raises(jiffy.ParameterError, match="n:"):
        tasks.machine_translation("a", "pt", n=2)


def test_languages_by_any_name():
    names = ("pt", "PT", "portuguese", "por_Latn", "pt_XX")
    assert {language(name, "x").code for name in names} == {"pt"}
    assert language("xx", "x") is None


def write_with_languages(folder, name: str, tokens: dict[int, str], tokenizer_class: str) -> jiffy.Seq2Seq:
    """A tiny model whose tokenizer has these special tokens in the places of others."""
    tiny_seq2seq.write_seq2seq(folder, name)
    raw = json.loads((folder / "tokenizer.json").read_text())
    for token_id, text in tokens.items():
        old = next(piece for piece, at in raw["model"]["vocab"].items() if at == token_id)
        raw["model"]["vocab"][text] = raw["model"]["vocab"].pop(old)
        raw["model"]["merges"] = [pair for pair in raw["model"]["merges"] if "".join(pair) != old]
        raw["added_tokens"].append({**raw["added_tokens"][0], "id": token_id, "content": text})
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": tokenizer_class}))
    return jiffy.load(folder, weights="f32")


# How the families say languages: the tokens of English and Portuguese, and which of them stands where.
FAMILIES = {
    "NllbTokenizer": ("m2m_100", "eng_Latn", "por_Latn", "before"),
    "M2M100Tokenizer": ("m2m_100", "__en__", "__pt__", "before"),
    "MBart50TokenizerFast": ("mbart", "en_XX", "pt_XX", "before"),
    "MBartTokenizer": ("mbart", "en_XX", "pt_XX", "behind"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_many_languages_is_told_which(tmp_path, family):
    """The source's language beside it; the target's is the first token said, or mBART's decoder begins with it."""
    name, english, portuguese, place = FAMILIES[family]
    model = write_with_languages(tmp_path / "m", name, {270: english, 271: portuguese}, family)
    assert language_token(model.tokenizer, "Portuguese", "x") == 271
    ids = [*model.tokenizer.encode("ab"), 257]
    source = [270, *ids] if place == "before" else [*ids, 270]
    got = model.generate("ab", target_language="pt", source_language="English", max_tokens=6)
    if place == "before":
        assert got.token_ids[0] == 271
        assert got.token_ids == model.generate(token_ids=source, forced_bos_token_id=271, max_tokens=6).token_ids
    else:
        assert model.reader.prompt(source, 271, 6).ids == [271]
        assert model.logits(source, [271])[0].argmax() == got.token_ids[0]
    assert tasks.machine_translation("ab", "pt", model=model, max_tokens=6) == got.text.strip()
    with pytest.raises(jiffy.Unsupported, match="target_language"):
        model.generate("ab", target_language="de")


def test_a_family_that_nobody_knows(tmp_path):
    with pytest.raises(jiffy.Unsupported, match="tokenizer_class"):
        write_with_languages(tmp_path / "m", "mbart", {}, "OtherTokenizer")


def test_summaries(tmp_path):
    folder = tmp_path / "bart"
    tiny_seq2seq.write_seq2seq(folder, "bart")
    model = jiffy.load(folder, weights="f32")
    texts = ["abc def", "ghi " * 100, 5]
    found = tasks.summarization(texts, model, errors="return", max_tokens=5)
    assert [type(one) for one in found] == [str, jiffy.ContextOverflow, jiffy.ParameterError]
    assert found[0] == model.generate(texts[0], max_tokens=5).text.strip()
    assert isinstance(tasks.summarization(texts[1], model, overflow="truncate", max_tokens=5), str)
    with pytest.raises(jiffy.ParameterError, match="model"):
        tasks.summarization("a", None)


def jiffy_command(*arguments: str, given: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)


def test_commands(tmp_path, tiny_folder):
    model = jiffy.load(tiny_folder, weights="i8")
    expected = tasks.machine_translation(["ab abc.", "", "abc"], "pt", model=model)
    lines = "ab abc.\n\nabc\n"
    piped = jiffy_command("translate", "--model", str(tiny_folder), given=lines)
    assert piped.stdout.split("\n")[:-1] == expected, piped.stderr
    (tmp_path / "a.txt").write_text(lines)
    from_file = jiffy_command("translate", "--model", str(tiny_folder), "-f", str(tmp_path / "a.txt"), "--json")
    assert [json.loads(line)["result"] for line in from_file.stdout.splitlines()] == expected
    assert jiffy_command("translate", "-m", str(tiny_folder), "abc").stdout == expected[2] + "\n"
    wrong = jiffy_command("translate", "--to", "Klingon", "a")
    assert wrong.returncode == 1 and "target_language" in wrong.stderr
    summary = jiffy_command("summarize", "-m", str(tiny_folder), "--max-tokens", "3", given="ab abc")
    assert summary.stdout.rstrip("\n") == tasks.summarization("ab abc", model, max_tokens=3)
