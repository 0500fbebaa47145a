"""benchmarks/peers.py with a tiny model and peers that only claim to compute."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
import tiny_encoders
import tiny_seq2seq

ROOT = Path(__file__).parent.parent
FAULTS = {
    "does-not-load": "ValueError: no such format",
    "fails": "RuntimeError: only one sequence",
    "dies": "ended with status 3: assertion failed: dying",
    "hangs": "no answer within 10 s",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("peers")
    tiny.write_hf_llama(path / "tiny", dim=64, ffn_dim=96, n_heads=4, n_kv_heads=2)
    for name in ("good", *FAULTS):
        (path / name).touch()
    return path


def command(folder: Path, out: Path, faults: list[str], *options: str, model: str = "tiny") -> list[str]:
    peers = [
        argument
        for name in faults
        for argument in ("--peer", name, str(ROOT / "tests/fake_engine.py"), sys.executable, str(folder / name))
    ]
    small = ["--threads", "2", "--probe-megabytes", "4", "--timeout", "10", "--out", str(out)]
    return [sys.executable, str(ROOT / "benchmarks/peers.py"), str(folder / model), *small, *peers, *options]


@pytest.fixture(scope="module")
def compared(folder) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Two rounds of two rows, with one peer that works and one for each way to fail."""
    out = folder / "out"
    options = ["--rounds", "2", "--rows", "prefill-128", "batch-8", "--jiffy", "i4", "i8/f32:prefill"]
    asked = command(folder, out, ["good", *FAULTS], *options)
    return subprocess.run(asked, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "200"}), out


def test_figures(compared):
    done, out = compared
    assert done.returncode == 0, done.stderr
    facts = json.loads((out / "results.json").read_text())
    figures = {(f["name"], f["contestant"]): f for f in facts["figures"]}
    assert figures["prefill 128", "good"]["rate"] == pytest.approx(1000)
    assert figures["batch 8", "good"]["rate"] == pytest.approx(1000)
    ours = figures["prefill 128", "jiffy i8, head f32"], figures["batch 8", "jiffy i4"]
    assert ("batch 8", "jiffy i8, head f32") not in figures
    for f in ours:
        assert f["rate"] > 0 and f["share"] > 0 and list(f["rates"]) == ["1", "2"]
        assert all(v > 0 for v in (*f["bandwidths"].values(), *f["peaks"].values()))
    loads = {load["contestant"]: load for load in facts["loads"]}
    assert loads["jiffy i4"]["first"] > 0 and loads["jiffy i4"]["again"] > 0
    assert loads["good"]["peak_bytes"] > 1 << 20


def test_share_of_the_limit(compared):
    """2 layers of q, o [64, 64], k, v [32, 64], gate, up [96, 64], down [64, 96], and a head of 272 rows, 259 of them
    real; 8 sequences see 32 + 16 positions behind them on average, and one more in each step."""
    facts = json.loads((compared[1] / "results.json").read_text())
    work = facts["record"]["work"]["jiffy i4"]["batch-8"]["decode"]
    layers = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96)
    attention = 2 * 4 * 4 * 16 * sum(8 * (48 + step) for step in (1, 2))
    assert (work["steps"], work["tokens"]) == (2, 16)
    assert work["operations"] == 2 * 2 * 8 * (layers + 259 * 64) + attention
    assert 0 <= work["weight_bytes"] - 2 * (layers + 272 * 64) * 4.5 / 8 < 10_000  # norms, rope, rows of the embedding
    figure = next(f for f in facts["figures"] if (f["name"], f["contestant"]) == ("batch 8", "jiffy i4"))
    for n, rate in figure["rates"].items():
        n_bytes = work["weight_bytes"] + work["kv_bytes"]
        least = max(n_bytes / figure["bandwidths"][n], work["operations"] / figure["peaks"][n])
        assert figure["shares"][n] == pytest.approx(rate * least / 16)


def test_failures_are_told_and_end_nothing(compared):
    done, out = compared
    errors = json.loads((out / "results.json").read_text())["record"]["errors"]
    assert errors == FAULTS
    for name, error in FAULTS.items():
        assert f"{name} failed: {error}" in done.stdout
        assert f"{name} failed: {error}" in (out / "results.md").read_text()


def test_files(compared):
    done, out = compared
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours = next(r for r in rows if (r["figure"], r["contestant"]) == ("batch 8", "jiffy i4"))
    assert float(ours["ratio to good"]) == pytest.approx(float(ours["tokens/s"]) / 1000, rel=0.001)
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "results.md").read_text()
    assert "| prefill 128 |" in table and "jiffy i4 / good" in table and "good: fake 1" in table
    assert not list(out.glob("cache-*"))
    assert "batch 8" in done.stdout and "load, again, s" in done.stdout


def test_ctrl_c_keeps_what_there_is(folder):
    """After the first round has been saved."""
    out = folder / "interrupted"
    process = subprocess.Popen(
        command(folder, out, ["good"], "--rounds", "1000", "--rows", "prefill-128", "--jiffy", "i4"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "results.png").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, complained = process.communicate(timeout=60)
    assert process.returncode == 130, complained
    assert "prefill 128" in printed and "Traceback" not in complained
    assert json.loads((out / "results.json").read_text())["figures"]
    assert not list(out.glob("cache-*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "decoding"], "no row begins with decoding; there are prefill-128"),
        (["--peer", "x", "llamacpp", "/nowhere/python", "/nowhere/x.gguf"], "x: /nowhere/python is not there"),
        (["--jiffy", "i4", "i4"], "two contestants have the same name: jiffy i4, jiffy i4"),
        (["--jiffy", "i5"], "weights: expected one of"),
    ],
)
def test_bad_arguments(folder, options, message):
    asked = command(folder, folder / "bad", [], *options)
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "400"})
    assert done.returncode in (1, 2)
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_help_tells_the_layout():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/peers.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "NAME-Q4_0.gguf" in done.stdout and "--rounds" in done.stdout


@pytest.fixture(scope="module")
def kinds():
    """Of models, as peers.py knows them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        from comparison import kinds

        yield kinds


def laid_out(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_peers_are_found_in_a_folder(tmp_path, kinds):
    from comparison.plan import peers_in

    laid_out(tmp_path, "venv-llamacpp/bin/python", "venv-ov/bin/python", "m-Q4_0.gguf", "ov/m-int4/config.json")
    laid_out(tmp_path, "m.gguf")
    found = peers_in(kinds.LANGUAGE, tmp_path, tmp_path / "models/m", 2)
    assert [c.name for c in found] == ["llama.cpp Q4_0", "OpenVINO int4"]
    assert found[0].command[2:] == (str(tmp_path / "m-Q4_0.gguf"), "--threads", "2")
    assert peers_in(kinds.LANGUAGE_FILE, tmp_path, tmp_path / "m.gguf", 2)[0].command[2] == str(tmp_path / "m.gguf")


def test_peers_of_encoders_and_translators(tmp_path, kinds):
    from comparison.plan import DRIVERS, peers_in

    laid_out(tmp_path, "venv-ov/bin/python", "venv-ort/bin/python", "venv-ct2/bin/python")
    laid_out(tmp_path, "ov/m-int8/config.json", "ov/m-fp32/config.json", "ort/m/model.onnx", "ct2/m-int8/config.json")
    found = {c.name: c for c in peers_in(kinds.ENCODER, tmp_path, tmp_path / "models/m", 2)}
    assert list(found) == [
        "OpenVINO int8",
        "OpenVINO fp32",
        "ONNX Runtime f32",
        "CTranslate2 int8",
        "CTranslate2 f32",
    ]
    assert found["CTranslate2 f32"].command[2:] == (
        *(str(tmp_path / "ct2/m-int8"), "--threads", "2"),
        *("--compute", "float32"),
    )
    translators = peers_in(kinds.TRANSLATION, tmp_path, tmp_path / "models/m", 2)
    assert [c.name for c in translators] == ["CTranslate2 int8", "CTranslate2 f32"]
    for peer in (*kinds.LANGUAGE.peers, *kinds.ENCODER.peers, *kinds.TRANSLATION.peers):
        assert (DRIVERS / f"run_{peer.driver}.py").is_file()


def test_the_kind_of_a_model(tmp_path, kinds):
    types = {"bert": kinds.ENCODER, "modernbert": kinds.ENCODER, "marian": kinds.TRANSLATION, "qwen2": kinds.LANGUAGE}
    for model_type, kind in types.items():
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert kinds.kind_of(tmp_path) is kind
    assert kinds.kind_of(tmp_path / "m.gguf") is kinds.LANGUAGE_FILE


@pytest.fixture(scope="module")
def encoders(folder) -> tuple[subprocess.CompletedProcess[str], dict]:
    tiny_encoders.write(folder / "bert", "bert", max_position_embeddings=256)
    out = folder / "encoders"
    options = ["--rounds", "1", "--rows", "32-batch-32", "ragged", "--jiffy", "i8", "f32"]
    asked = command(folder, out, ["good"], *options, model="bert")
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr + done.stdout
    return done, json.loads((out / "results.json").read_text())


def test_encoders(encoders):
    """The peer takes a millisecond for each token that it is given."""
    done, facts = encoders
    figures = {(f["name"], f["contestant"]): f for f in facts["figures"]}
    assert "sentences/s (of the limit)" in done.stdout
    assert not facts["record"]["errors"]
    assert figures["32 tokens, batch 32", "good"]["rate"] == pytest.approx(1000 / 32)
    tokens = sum(5 + 195 * i // 31 for i in range(32))
    assert figures["5 to 200 tokens, batch 32", "good"]["rate"] == pytest.approx(32 * 1000 / tokens)
    for name in ("jiffy i8", "jiffy f32"):
        assert figures["5 to 200 tokens, batch 32", name]["share"] > 0


def test_work_of_an_encoder(encoders):
    """3 layers of q, k, v, o [36, 36] and up, down [50, 36]; 32 tokens see 32."""
    work = encoders[1]["record"]["work"]["jiffy f32"]["32-batch-32"]["encode"]
    matrices, attention = 32 * 32 * 3 * (4 * 36 * 36 + 2 * 36 * 50), 2 * 32 * 32 * 32 * 3 * 36
    assert (work["tokens"], work["operations"]) == (32, 2 * matrices + 2 * attention)


def test_encoders_whose_formats_disagree(kinds):
    import numpy as np

    from comparison.rounds import _check_alike

    rows = np.eye(3)
    _check_alike(rows, 2 * rows, "jiffy f32")
    with pytest.raises(ValueError, match=r"rows are not those of jiffy f32: a cosine of 0\.000"):
        _check_alike(rows, rows[::-1], "jiffy f32")


def test_translators(folder):
    tiny_seq2seq.write_seq2seq(folder / "marian", "marian", max_position_embeddings=64)
    out = folder / "translators"
    asked = command(folder, out, ["good"], "--rounds", "1", "--rows", "batch-1-4", "batch-16-greedy", model="marian")
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads((out / "results.json").read_text())
    figures = {(f["name"], f["contestant"]): f for f in facts["figures"]}
    assert "target tokens/s" in done.stdout
    assert figures["batch 16, greedy", "good"]["rate"] == pytest.approx(16 * 32 / (16 * 25 / 1000))
    assert figures["batch 1, 4 beams", "jiffy i8"]["rate"] > 0
    assert figures["batch 1, 4 beams", "jiffy i8"]["share"] is None


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_every_benchmark_says_how_it_is_used(script):
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and "--" in done.stdout
