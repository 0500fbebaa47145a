"""The commands of the tasks: texts from arguments, files and standard input; lines, JSON and .npy out."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jiffy
import tiny_encoders as tiny
from compare import assert_same
from jiffy import tasks
from test_cli import jiffy as command


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for task in ("", "sequence", "token", "question"):
        found[task] = tmp_path_factory.mktemp(task or "plain")
        tiny.write(found[task], "bert", task)
    return found


def lines(*arguments: object, **options) -> list[dict]:
    return [json.loads(line) for line in command(*map(str, arguments), **options).stdout.splitlines()]


def test_embed(folders, tmp_path):
    some = ["one text", "another"]
    expected = jiffy.load_encoder(folders[""], weights="i8g32").encode(some)
    (tmp_path / "texts.txt").write_text("one text\n\nanother\r\n")
    for found in (
        lines("embed", *some, "-m", folders[""]),
        lines("embed", "--file", tmp_path / "texts.txt", "-m", folders[""]),
        lines("embed", "-m", folders[""], stdin="one text\nanother\n"),
    ):
        assert [one["text"] for one in found] == some
        np.testing.assert_allclose([one["embedding"] for one in found], expected, atol=1e-6)
    command("embed", *some, "-m", str(folders[""]), "--out", str(tmp_path / "all.npy"))
    assert_same(np.load(tmp_path / "all.npy"), expected)


def test_classify(folders, tmp_path):
    found = lines("classify", "one text", "-m", folders["sequence"], "--json")
    expected = tasks.text_classification("one text", str(folders["sequence"]))
    assert found == [{"text": "one text", "label": expected.label, "score": expected.score, "scores": expected.scores}]
    printed = command("classify", "one text", "-m", str(folders[""]), "-l", "cats, dogs").stdout
    label, score, text = printed.rstrip("\n").split("\t")
    assert label in ("cats", "dogs") and 0.5 <= float(score) <= 1 and text == "one text"
    tasks.fit(["a", "b"], ["x", "y"], str(folders[""])).save(tmp_path / "head.safetensors")
    found = lines("classify", "a", "-m", folders[""], "--head", tmp_path / "head.safetensors", "--json")
    assert found[0]["label"] == "x"


def test_tag(folders):
    found = lines("tag", "two words.", "-m", folders["token"], "--json", "--every")
    assert "".join(one["text"] for one in found[0]["entities"]) == "twowords."
    assert command("tag", "two words.", "-m", str(folders["token"])).stdout.startswith("two words.\n  ")


def test_answer(folders, tmp_path):
    (tmp_path / "context.txt").write_text("some words that may hold an answer")
    found = lines("answer", "what", "-m", folders["question"], "-f", tmp_path / "context.txt", "--json")
    assert found[0]["text"] in "some words that may hold an answer"
    printed = command(
        "answer", "what", "-m", str(folders["question"]), stdin="some words that may hold an answer"
    ).stdout
    assert printed == found[0]["text"] + "\n"


def test_rerank(folders):
    found = lines("rerank", "one", "two words", "one", "-m", folders[""], "--json", "-n", 1)
    assert [(one["index"], one["text"]) for one in found] == [(1, "one")]


def test_info_of_an_encoder(folders):
    facts = json.loads(command("info", str(folders["token"]), "--json").stdout)
    assert facts["architecture"] == "bert" and facts["head"] == "token"
    assert "packed bytes" in command("info", str(folders[""])).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "", "-m", "PLAIN"], "text: expected at least one token"),
        (["embed", "x " * 600, "-m", "PLAIN"], 'or overflow="truncate"'),
        (["embed", "-f", "nowhere.txt", "-m", "PLAIN"], "nowhere.txt: expected a readable file"),
        (["embed", "a", "-f", "nowhere.txt", "-m", "PLAIN"], "--file: expected texts or a file, found both"),
        (["embed", "a", "-m", "PLAIN", "-o", "/nowhere/x.npy"], "/nowhere/x.npy: expected a file that can be written"),
        (["classify", "a", "-m", "PLAIN"], 'expected a head for "sequence"'),
        (["classify", "a", "-m", "PLAIN", "-l", "one"], "labels: expected 2"),
        (["tag", "a", "-m", "PLAIN"], 'expected a head for "token"'),
        (["generate", "a", "-m", "PLAIN"], "expected a language model, found Encoder"),
    ],
)
def test_bad_input_is_one_line(folders, arguments, message):
    result = command(*(str(folders[""]) if one == "PLAIN" else one for one in arguments))
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
