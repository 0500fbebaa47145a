"""The command line as a person calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny


def jiffy(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", *args]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=120, env=os.environ | {"NO_COLOR": "1"}
    )


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_hf_llama(folder)
    return str(folder)


def test_a_real_model_answers(smollm2_path: Path):
    result = jiffy("generate", "What is the capital of France?", "--model", str(smollm2_path))
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


def test_json_has_text_counts_and_timings(tiny_path: str):
    options = ["--model", tiny_path, "--json", "--max-tokens", "5", "--raw", "--temperature", "0.9", "--seed", "7"]
    first, second = (json.loads(jiffy("generate", "hello", *options).stdout) for _ in range(2))
    assert first["text"] == second["text"]
    assert len(first["token_ids"]) <= 5
    assert first["n_prompt_tokens"] == 5
    assert first["finish_reason"] in {"stop", "length"}
    assert first["timings"]["ttft"] > 0


def test_a_dash_reads_the_prompt_from_standard_input(tiny_path: str):
    options = ["--model", tiny_path, "--raw", "-n", "8", "--json"]
    given, piped = jiffy("generate", "some text", *options), jiffy("generate", "-", *options, stdin="some text")
    assert json.loads(given.stdout)["token_ids"] == json.loads(piped.stdout)["token_ids"]


def test_several_answers(tiny_path: str):
    options = ["--model", tiny_path, "--raw", "-n", "6", "-t", "3", "-c", "3", "--presence-penalty", "2"]
    answers = json.loads(jiffy("generate", "hello", *options, "--json", "--logprobs", "2").stdout)
    assert len({tuple(answer["token_ids"]) for answer in answers}) == 3
    for answer in answers:
        assert [entry["token_id"] for entry in answer["logprobs"]] == answer["token_ids"]
        assert {len(entry["top"]) for entry in answer["logprobs"]} == {2}
    text = jiffy("generate", "hello", *options).stdout
    assert all(f"[{i}] " in text for i in (1, 2, 3))


def test_log_probabilities_are_a_table(tiny_path: str):
    options = ["--model", tiny_path, "--raw", "-n", "3", "--logprobs", "1"]
    text = jiffy("generate", "hello", *options).stdout
    assert "log probability" in text and len(text.splitlines()) >= 1 + 3 + 3 + 1


def test_info_tells_formats_and_sizes(tiny_path: str):
    facts = json.loads(jiffy("info", tiny_path, "--json", "--weights", "i4").stdout)
    assert set(facts["formats"]) == {"i4"}
    assert facts["layers"] == 2
    assert "packed bytes" in jiffy("info", tiny_path).stdout


def test_models_are_listed_with_their_places(smollm2_path: Path):
    listed = {model["name"]: model for model in json.loads(jiffy("models", "--json").stdout)}
    assert listed["smollm2-135m"]["path"] == str(smollm2_path)
    assert listed["qwen2.5-0.5b"]["source"] == "Qwen/Qwen2.5-0.5B-Instruct"
    table = jiffy("models").stdout
    assert all(name in table for name in listed if "/" not in name)


def test_limits_prints_every_thread_count():
    rows = json.loads(jiffy("bench", "limits", "--megabytes", "16", "--threads", "1", "--json").stdout)
    assert rows[0]["n_threads"] == 1
    assert rows[0]["best_bandwidth"] == max(rows[0]["bandwidth"].values()) > 0
    assert "int8" in jiffy("bench", "limits", "--megabytes", "16", "--threads", "1").stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "x", "--model", "./nothing.gguf"], "nothing.gguf"),
        (["generate", "x", "--temperature", "-1"], "temperature: expected"),
        (["generate", "x", "--weights", "i3"], "weights: expected one of"),
        (["generate", "x", "--kv", "f16"], "kv_dtype: expected one of"),
        (["generate", "x", "-c", "0"], "n: expected an integer from 1"),
        (["chat", "--min-p", "2"], "min_p: expected a number from 0 to 1"),
        (["bench", "limits", "--isa", "mmx"], "isa: expected"),
    ],
)
def test_errors_are_one_line_and_a_status(args: list[str], message: str):
    result = jiffy(*args)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_help_and_version():
    assert "generate" in jiffy("--help").stdout
    assert "--temperature" in jiffy("generate", "--help").stdout
    assert jiffy("--version").stdout.startswith("jiffy 0.")
