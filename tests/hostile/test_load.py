"""`jiffy.load` of every hostile file, each in a process of its own with 6 GB of address space: an error that names the
place, and afterwards a good model answers in the same process."""

import pytest

import jiffy
import tiny

from .case import config, gguf_file, hf_folder, without
from .config_files import TOKENIZERS
from .files import CASES
from .load_server import LoadServer
from .weight_files import WEIGHTS


@pytest.fixture(scope="module")
def server():
    with LoadServer() as started:
        yield started


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.gguf"
    tiny.write_gguf_llama(path)
    return path, jiffy.load(path).generate("hello", max_tokens=4).token_ids


def _refused(server, good, path, **options) -> dict:
    reply = server.ask(path, good[0], **options)
    assert "died" not in reply, reply
    assert reply["error"], f"no jiffy.Error: {reply['text']}"
    assert reply["where"] and reply["expected"] and reply["found"], reply
    assert len(reply["text"]) < 2000
    assert reply["token_ids"] == good[1], "the good model's answer has changed"
    return reply


@pytest.mark.parametrize("case", [*CASES, *TOKENIZERS], ids=lambda case: case.name)
def test_hostile_file(case, server, good, tmp_path):
    reply = _refused(server, good, case.make(tmp_path))
    if case.name != "gguf-missing":  # a path that leads nowhere ends before any file is opened
        assert case.message in reply["text"]


@pytest.mark.parametrize("weights", [None, "i4", "i8"], ids=str)
@pytest.mark.parametrize("case", WEIGHTS, ids=lambda case: case.name)
def test_weights_that_are_not_finite(case, weights, server, good, tmp_path):
    reply = _refused(server, good, case.make(tmp_path), weights=weights)
    assert reply["error"] == "FormatError"
    assert case.message in reply["text"]


def test_weights_that_are_zero_or_tiny_are_good(tmp_path):
    """Otherwise the check could refuse too much: every bit pattern below infinity's is a number."""
    folder = hf_folder(tmp_path, dtype="bf16")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    path.write_bytes(raw[:begin] + b"\1\0" * ((len(raw) - begin) // 2))  # the smallest subnormal of bfloat16
    for weights in (None, "i4", "i8"):
        assert jiffy.load(folder, weights=weights).generate("hello", max_tokens=2).n_tokens == 2


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(name, server, good, tmp_path):
    assert name in _refused(server, good, without(tmp_path, name))["text"]


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all.gguf", "zero\0byte", "", "a" * 100_000])
def test_a_path_that_leads_nowhere(name, server, good):
    _refused(server, good, name)


def test_more_memory_than_there_is(server, good, tmp_path):
    """Tables of rope angles and a KV cache for 2^30 positions, in 6 GB."""
    reply = _refused(server, good, config(tmp_path, max_position_embeddings=1 << 30), context=1 << 30)
    assert reply["error"] == "OutOfMemory"


def test_more_threads_than_there_can_be(server, good, tmp_path):
    """1024 stacks of 8 MB do not fit into 6 GB."""
    reply = _refused(server, good, gguf_file(tmp_path), n_threads=1024)
    assert reply["error"] == "OutOfMemory" and "thread" in reply["text"]
