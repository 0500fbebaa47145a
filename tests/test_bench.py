"""What `jiffy bench model` reports: shapes and sums that hold at any speed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import jiffy
import tiny
import tiny_encoders
import tiny_marian
from jiffy.bench.measuring import Result
from jiffy.bench.model import EncoderPlan, Plan, Seq2SeqPlan, bench_model
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


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    tiny_encoders.write(path, "bert")
    return path


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("student")
    tiny_marian.write_marian(path)
    return path


EFFORT = {"rounds": 2, "limit_bytes": 1 << 20, "limit_rounds": 1}


def assert_sums(figure) -> None:
    assert figure.tokens_per_second == pytest.approx(figure.tokens / figure.seconds)
    assert figure.texts_per_second == pytest.approx(figure.texts / figure.seconds)
    assert figure.outside >= 0 and figure.limit_share > 0
    assert sum(t.seconds for t in figure.ops) + figure.outside == pytest.approx(figure.profiled_seconds)


@pytest.mark.parametrize("weights", ["f32", "i8"])
def test_an_encoder(encoder_folder, weights):
    encoder = jiffy.load(encoder_folder, weights=weights, n_threads=2)
    said = []
    result = bench_model(encoder, EncoderPlan((8, 30), (1, 6), (5, 200), **EFFORT), said.append)
    names = ["alone 8", "batch 6 of 8", "alone 30", "batch 6 of 30", "ragged 6 of 5 to 200"]
    assert [f.name for f in result.figures] == names == said[2:-1]
    assert [(f.texts, f.tokens) for f in result.figures[:4]] == [(1, 8), (6, 48), (1, 30), (6, 180)]
    assert result.figures[4].texts == 6 and result.figures[4].tokens == 5 + 44 + 83 + 122 + 161 + 200
    for figure in result.figures:
        assert_sums(figure)
        ops = {t.op for t in figure.ops}
        assert {"matmul", "attention", "layer_norm", "pool"} <= ops and "gelu" not in ops, "matmuls do it"
        (matmul,) = (t for t in figure.ops if t.op == "matmul")
        per_layer = 4 * 36 * 36 + 2 * 36 * 50
        assert matmul.operations == 2 * 3 * per_layer * figure.tokens


def test_a_context_shorter_than_the_longest_text(encoder_folder):
    plan = EncoderPlan((8,), (3,), (5, 200), **EFFORT)
    figures = bench_model(jiffy.load(encoder_folder, context=50, n_threads=1), plan).figures
    assert [f.name for f in figures] == ["batch 3 of 8", "ragged 3 of 5 to 50"]


def test_an_encoder_with_a_head(tmp_path):
    """Its scores are what is measured: two rows less of the last layer, and a matrix more."""
    tiny_encoders.write(tmp_path, "bert", "sequence")
    plan = EncoderPlan((10,), (2,), (), **EFFORT)
    (figure,) = bench_model(jiffy.load(tmp_path, weights="f32", n_threads=1), plan).figures
    (matmul,) = (t for t in figure.ops if t.op == "matmul")
    layer, late = 4 * 36 * 36 + 2 * 36 * 50, 36 * 36 + 2 * 36 * 50
    assert matmul.operations == 2 * (20 * 2 * layer + 20 * 3 * 36 * 36 + 2 * (late + 36 * 36 + 3 * 36))


def test_an_encoder_decoder(student_folder):
    model = jiffy.load(student_folder, weights="f32", n_threads=2)
    result = bench_model(model, Seq2SeqPlan((1, 3), (1, 2), source=9, target=6, **EFFORT))
    assert [f.name for f in result.figures] == ["greedy 1", "greedy 3", "beams 2 x 1", "beams 2 x 3"]
    assert [(f.texts, f.tokens) for f in result.figures] == [(1, 6), (3, 18), (1, 6), (3, 18)]
    for figure, beams in zip(result.figures, (1, 1, 2, 2), strict=True):
        assert_sums(figure)
        (ssru,) = (t for t in figure.ops if t.op == "ssru")
        assert ssru.count == 2 * 6, "two layers of the decoder, as often as there are tokens"
        (matmul,) = (t for t in figure.ops if t.op == "matmul")
        d, f, vocab = tiny_marian.DIM, tiny_marian.FFN, len(tiny_marian.PIECES) + 1
        reading = 9 * figure.texts * (2 * (4 * d * d + 2 * d * f) + 4 * d * d)
        writing = 2 * (2 * d * d + 2 * d * d + 2 * d * f) + vocab * d
        assert matmul.operations == 2 * (reading + figure.texts * (1 + 5 * beams) * writing)
    assert model._engine.idle() and model._engine.n_free_source_blocks == model._engine.n_source_blocks


def test_wrong_embeddings_are_not_timed(encoder_folder, monkeypatch):
    encoder = jiffy.load(encoder_folder, n_threads=1)
    native = encoder._native("mean")

    class Wrong:
        def run(self, ids, lengths):
            return native.run(ids, lengths) + len(lengths)

    monkeypatch.setattr(encoder, "_native", lambda name: Wrong())
    with pytest.raises(jiffy.Error, match="bench: expected the same bits alone and among others"):
        bench_model(encoder, EncoderPlan((8,), (1,), **EFFORT))
    with pytest.raises(jiffy.ParameterError, match="context: expected at least 999 positions"):
        bench_model(encoder, EncoderPlan((999,), (1,), **EFFORT))


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


@pytest.mark.parametrize(
    ("which", "counts", "names"),
    [
        ("encoder", ["--length", "8", "--batch", "2"], ["batch 2 of 8", "ragged 2 of 5 to 200"]),
        ("student", ["--batch", "2", "--beams", "3"], ["beams 3 x 2"]),
    ],
)
def test_command_line_of_other_families(encoder_folder, student_folder, tmp_path, which, counts, names):
    folder = {"encoder": encoder_folder, "student": student_folder}[which]
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", "bench", "model", str(folder), "--quick"]
    asked = [*command, *counts, "--threads", "1"]
    plotted = [*asked, "--json", "--plot", str(tmp_path / "roof.png")]
    facts = json.loads(subprocess.run(plotted, capture_output=True, check=True).stdout)
    assert [f["name"] for f in facts["figures"]] == names and (tmp_path / "roof.png").exists()
    printed = subprocess.run(asked, capture_output=True, check=True, text=True).stdout
    assert "texts/s" in printed and printed.count("outside") == len(names)
    wrong = subprocess.run([*command, "--prefill", "8"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "prefill: expected no such option for an encoder" in wrong.stderr
