"""What `jiffy bench model` reports: shapes and sums that hold at any speed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import jiffy
import tiny
from jiffy.bench.model import Plan, Result, bench_model
from jiffy.bench.roofline import check_plot, draw_roofline, points

SMALL = {"rounds": 2, "steps": 3, "limit_bytes": 1 << 20, "limit_rounds": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench")
    tiny.write_hf_llama(path, dim=64, ffn_dim=96, n_heads=4, n_kv_heads=2)
    return path


def measure(folder, plan: Plan, **options) -> Result:
    said = []
    model = jiffy.load(folder, **{"context": 256, "n_threads": 2, "progress": False, **options})
    result = bench_model(model, plan, said.append)
    assert len(said) == 3 + len(result.figures)
    assert model._engine.idle()
    assert model._engine.n_free_blocks == model._engine.n_blocks
    return result


@pytest.mark.parametrize("weights", ["f32", "bf16", "i4", "i8"])
def test_sums(folder, weights):
    result = measure(folder, Plan((7, 60), (0, 40), (3,), **SMALL), weights=weights, prefill_chunk=32)
    assert [f.name for f in result.figures] == ["prefill 7", "prefill 60", "decode at 0", "decode at 40", "batch 3"]
    assert result.bandwidth > 0
    assert set(result.peaks) == {"int8", "bf16", "f32"}
    for figure in result.figures:
        assert figure.tokens_per_second == pytest.approx(figure.tokens / figure.seconds)
        assert figure.limit_share > 0
        inside = sum(t.seconds for t in figure.ops)
        assert figure.outside >= 0
        assert inside + figure.outside == pytest.approx(figure.profiled_seconds)
        assert sum(t.step_share for t in figure.ops) == pytest.approx(inside / figure.profiled_seconds)
        assert [t.seconds for t in figure.ops] == sorted((t.seconds for t in figure.ops), reverse=True)
        for t in figure.ops:
            assert t.count > 0 and t.seconds > 0
            assert (t.limit_share is None) == (t.bytes == t.operations == 0), t


def test_work(folder):
    """Matmuls of the f32 model: 2 layers of q, o [64, 64], k, v [32, 64], down [64, 96], gate and up [96, 64]."""
    result = measure(folder, Plan((48,), (0,), (5,), **SMALL), weights="f32", prefill_chunk=64)
    per_layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96
    head = 259 * 64
    padded_head = 272 * 64  # whole slabs of 16 rows
    for figure, rows, outputs in zip(result.figures, (48, 1, 5), (1, 1, 5), strict=True):
        matmuls = [t for t in figure.ops if t.op in ("matmul", "gate_up")]
        assert sum(t.operations for t in matmuls) == 2 * (2 * rows * per_layer + outputs * head)
        assert sum(t.bytes for t in matmuls) == 4 * (2 * per_layer + padded_head)
    (attention,) = (t for t in result.figures[0].ops if t.op == "attention")
    assert attention.count == 2
    assert attention.operations == 2 * 4 * (48 * 49 // 2) * 64  # 2 layers, 4 heads of 16, two multiply-adds
    assert attention.bytes == 2 * 48 * 2 * (16 + 16) * 4


def test_prompts_in_chunks_are_added_up(folder):
    plan = Plan((50,), (), (), **SMALL)
    whole, cut = (measure(folder, plan, prefill_chunk=chunk, weights="i8").figures[0] for chunk in (64, 16))
    for op, count in ((t.op, t.count) for t in whole.ops):
        assert next(t for t in cut.ops if t.op == op).count == 4 * count, op


def test_plans_that_do_not_fit_are_refused(folder):
    with pytest.raises(jiffy.ParameterError, match="context: expected at least 311 positions, found 256"):
        measure(folder, Plan((300,), (), (4,), **SMALL))


def test_wrong_results_are_not_timed(folder, monkeypatch):
    model = jiffy.load(folder, context=256, progress=False)
    answers = iter([[1, 2], [1, 3]])

    class Answer:
        def __init__(self) -> None:
            self.token_ids = next(answers)

    monkeypatch.setattr(
        model, "generate", lambda token_ids, **_: [Answer()] if isinstance(token_ids[0], list) else Answer()
    )
    with pytest.raises(jiffy.Error, match=r"bench: expected the tokens \[1, 2\] in a batch of 3 too, found \[1, 3\]"):
        bench_model(model, Plan((7,), (), (3,), **SMALL))


def test_a_roofline_has_what_reads_and_computes(folder, tmp_path):
    result = measure(folder, Plan((48,), (0, 40), (5,), **SMALL), weights="i4", kv_dtype="int8")
    shown = list(points(result))
    assert {p.figure for p in shown} == {f.name for f in result.figures}
    assert {p.op for p in shown} == {t.op for f in result.figures for t in f.ops if t.operations}
    assert all(p.rate > 0 and p.intensity > 0 and 0 < p.step_share < 1 for p in shown)
    matmul = {p.figure: p.intensity for p in shown if p.op == "matmul"}
    assert matmul["decode at 0"] < matmul["batch 5"] < matmul["prefill 48"]
    for name in ("roof.png", "roof.svg"):
        draw_roofline(result, tmp_path / name, "tiny")
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    assert "decode at 40" in (tmp_path / "roof.svg").read_text()


def test_pictures_that_can_not_be_drawn_are_refused_at_once(tmp_path, monkeypatch):
    for path in (tmp_path / "roof.txt", tmp_path / "roof", tmp_path / "none/roof.png"):
        with pytest.raises(jiffy.ParameterError, match="plot: expected a file"):
            check_plot(path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(jiffy.Unsupported, match=r"plot: expected matplotlib: pip install 'jiffy\[plot\]', found none"):
        check_plot(tmp_path / "roof.png")


def test_command_line(folder, tmp_path):
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", "bench", "model", str(folder), "--quick"]
    counts = ["--prefill", "8", "--prefill", "16", "--decode", "4", "--batch", "2", "--threads", "1", "--kv", "int8"]
    asked = [*command, *counts, "--json", "--plot", str(tmp_path / "roof.png")]
    facts = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    assert (tmp_path / "roof.png").exists()
    assert [f["name"] for f in facts["figures"]] == ["prefill 8", "prefill 16", "decode at 4", "batch 2"]
    printed = subprocess.run([*command, *counts], capture_output=True, check=True, text=True)
    assert "limits:" in printed.stdout
    assert "prefill 16" in printed.stdout and "outside" in printed.stdout
    assert printed.stderr == ""
