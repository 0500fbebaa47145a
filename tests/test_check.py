"""`jiffy check`: healthy models pass in every format; one damaged scale, or an engine that computes something else, is
found and its part named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import jiffy
import tiny
from compare import assert_close, assert_same
from jiffy import _core
from jiffy.check import Report, check
from jiffy.check_parts import weight_bounds
from jiffy.check_text import TEXT
from jiffy.checkpoint import open_checkpoint
from jiffy.graph import Trace
from jiffy.reference import Reference, reference_logits, round_bf16, round_int8, round_int8_by_powers
from jiffy.tensor_entry import DTYPES

ODD = {"dim": 148, "ffn_dim": 203, "n_heads": 6, "n_kv_heads": 2, "head_dim": 22, "bias": True, "tied": False}
PARTS = ["embed_tokens", "layers.0", "layers.1", "logits"]
IDS = np.random.default_rng(0).integers(0, 256, 70).tolist()
POOL = _core.ThreadPool(1)


def load(path, **options) -> jiffy.Model:
    return jiffy.load(path, **{"context": 128, "prefill_chunk": 29, "progress": False, **options})


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", "check", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def assert_healthy(report: Report) -> None:
    bad = report.first_bad
    assert bad is None, f"{bad.name}: {bad.bound_share:.2f} of its bound, {bad.weight_faults}"
    assert report.perplexity == pytest.approx(report.reference_perplexity, rel=0.1)
    assert 0 <= report.kl_mean <= report.kl_max


def damage_scale(path: Path, name: str, block: int) -> None:
    """Makes the float16 scale of one block of a GGUF tensor a quarter larger."""
    entry = open_checkpoint(path).tensors[name]
    with path.open("r+b") as file:
        file.seek(entry.offset + block * DTYPES[entry.dtype][1])
        scale = np.frombuffer(file.read(2), "<f2")
        file.seek(-2, 1)
        file.write((scale * np.float16(1.25)).tobytes())


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("weights", jiffy.formats())
def test_healthy_models_pass(tmp_path, weights, fuse):
    tiny.write_hf_llama(tmp_path, **ODD)
    report = check(load(tmp_path, weights=weights, fuse=fuse), IDS)
    assert_healthy(report)
    assert [part.name for part in report.parts] == PARTS
    assert report.n_tokens == len(IDS)
    for part in report.parts[1:]:
        assert (part.loss == 0) == (weights == "f32"), part
        assert part.worst >= part.error > 0, part
        assert part.error < (1e-5 if weights == "f32" else 0.05), part


@pytest.mark.parametrize("weights", ["f32", "i8"])
@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
def test_rounded_keys_and_values_are_the_engines_error(tmp_path, kv_dtype, weights):
    tiny.write_hf_llama(tmp_path, **ODD)
    exact, rounded = (check(load(tmp_path, weights=weights, kv_dtype=kv), IDS) for kv in ("f32", kv_dtype))
    assert_healthy(rounded)
    for plain, part in zip(exact.parts[1:3], rounded.parts[1:3], strict=True):
        assert part.error > plain.error or weights == "i8", "activations in int8 cost more"


def test_windows(tmp_path):
    tiny.write_hf_llama(tmp_path, **ODD | {"bias": False}, model_type="mistral", sliding_window=9)
    model = load(tmp_path, weights="f32")
    assert_healthy(check(model, IDS))
    ids = IDS[:25] + IDS[:1] + IDS[26:]
    changed = np.abs(reference_logits(model._trace, ids) - reference_logits(model._trace, IDS)).max(axis=1) > 0
    assert np.flatnonzero(changed).tolist() == list(range(25, 25 + 2 * 8 + 1)), "two layers see 8 positions back each"


@pytest.mark.parametrize("isa", jiffy.isas())
@pytest.mark.parametrize("dtype", ["q4_0", "q4_1", "q8_0", "f16", "bf16"])
def test_what_a_file_holds_is_kept(tmp_path, dtype, isa):
    tiny.write_gguf_llama(tmp_path / "a.gguf", dtype=dtype, tied=False, dim=96, ffn_dim=160)
    report = check(load(tmp_path / "a.gguf", isa=isa), IDS)
    assert_healthy(report)
    assert all(part.loss == 0 for part in report.parts)


def test_smollm2_passes(smollm2_path):
    model = jiffy.load(smollm2_path, context=512, progress=False)
    report = check(model, model.tokenizer.encode(TEXT)[:48])
    assert_healthy(report)
    assert len(report.parts) == 32


@pytest.mark.parametrize("dtype", ["q4_0", "q4_1", "q8_0"])
@pytest.mark.parametrize(
    ("tensor", "part"),
    [("layers.1.mlp.up_proj", "layers.1"), ("layers.0.self_attn.v_proj", "layers.0"), ("lm_head", "logits")],
)
def test_one_damaged_scale_is_found(tmp_path, dtype, tensor, part):
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    tiny.write_gguf_llama(good, dtype=dtype, tied=False, dim=96, ffn_dim=160)
    shutil.copy(good, bad)
    damage_scale(bad, f"{tensor}.weight", 3 * 11 + 1)  # rows of 96 values have 3 blocks
    report = check(load(bad), IDS, against=good)
    assert report.first_bad.name == part
    assert [p.name for p in report.parts if p.bad] == [part]
    (fault,) = report.first_bad.weight_faults
    assert (fault.name, fault.row, fault.columns) == (f"{tensor}.weight", 11, (32, 63))
    assert fault.error > fault.bound == 0
    assert_healthy(check(load(bad), IDS))  # no one can tell from the damaged file alone


def test_a_damaged_norm_is_found(tmp_path):
    """In another file, of another container, which is to hold the same model."""
    defaults = {"dim": 96, "ffn_dim": 160, "n_heads": 4, "n_kv_heads": 2}
    weights = tiny.write_hf_llama(tmp_path / "folder", **defaults)
    tiny.write_gguf_llama(tmp_path / "a.gguf", dtype="f32", **defaults)
    assert_healthy(check(load(tmp_path / "a.gguf", weights="i8"), IDS, against=tmp_path / "folder"))
    weights["layers.1.input_layernorm.weight"][5] *= 1.01
    raw = {tiny.hf_name(name): ("F32", list(value.shape), value.tobytes()) for name, value in weights.items()}
    tiny.write_safetensors(tmp_path / "folder" / "model.safetensors", raw)
    report = check(load(tmp_path / "a.gguf", weights="i8"), IDS, against=tmp_path / "folder")
    assert report.first_bad.name == "layers.1"
    assert report.first_bad.weight_faults[0].columns == (0, 31)


@pytest.mark.parametrize("weights", ["f32", "i8", "i4a"])
def test_an_engine_that_computes_something_else_is_found(tmp_path, weights):
    """One norm weight of 148 is a third larger in the engine than in the trace."""
    for name in ("one", "other"):
        values = tiny.write_hf_llama(tmp_path / name, **ODD)
    values["layers.1.post_attention_layernorm.weight"][7] *= 4 / 3
    raw = {tiny.hf_name(name): ("F32", list(value.shape), value.tobytes()) for name, value in values.items()}
    tiny.write_safetensors(tmp_path / "other" / "model.safetensors", raw)
    model = load(tmp_path / "one", weights=weights)
    model._engine = load(tmp_path / "other", weights=weights)._engine
    report = check(model, IDS)
    assert [part.name for part in report.parts if part.bad] == ["layers.1"]
    assert not report.first_bad.weight_faults
    assert report.first_bad.bound_share > 1


def test_overflow_is_bad(tmp_path):
    weights = tiny.write_hf_llama(tmp_path, **ODD)
    weights["layers.1.mlp.down_proj.weight"][:] = 3e38
    raw = {tiny.hf_name(name): ("F32", list(value.shape), value.tobytes()) for name, value in weights.items()}
    tiny.write_safetensors(tmp_path / "model.safetensors", raw)
    assert check(load(tmp_path, weights="f32"), IDS).first_bad.name == "layers.1"
    facts = json.loads(run(str(tmp_path), "--json", "--tokens", "20").stdout, parse_constant=pytest.fail)
    assert facts["first_bad"] == "layers.1"
    assert facts["kl_mean"] is None


def test_errors_name_what_is_wrong(tmp_path):
    tiny.write_hf_llama(tmp_path / "one", **ODD)
    tiny.write_hf_llama(tmp_path / "deeper", **ODD | {"n_layers": 3})
    tiny.write_hf_llama(tmp_path / "wider", **ODD | {"ffn_dim": 204})
    model = load(tmp_path / "one")
    with pytest.raises(jiffy.ParameterError, match="at least two tokens, found 1"):
        check(model, [1])
    with pytest.raises(jiffy.ParameterError, match=r"against: expected a model of the parts embed_tokens, layers\.0"):
        check(model, IDS, against=tmp_path / "deeper")
    with pytest.raises(jiffy.ParameterError, match=r"gate_proj\.weight \[203, 148\], found \[204, 148\]"):
        check(model, IDS, against=tmp_path / "wider")
    with pytest.raises(jiffy.ContextOverflow):
        check(model, IDS * 2)
    with pytest.raises(
        jiffy.ParameterError, match=r"values\[1\]: expected a value that an instruction makes, found -1"
    ):
        model._engine.observe(IDS, [0, -1])
    assert_healthy(check(model, IDS))


def test_observed_values(tmp_path):
    """Those that fusion keeps are the same bits in both programs, in chunks of any size; the last are the logits."""
    tiny.write_hf_llama(tmp_path, **ODD)
    plain = load(tmp_path, weights="i4", fuse=False, n_threads=1)
    indices = [node.index for node in plain._trace.marks.values()]
    logits, expected = plain._engine.observe(IDS, indices)
    assert_same(logits, plain.logits(IDS))
    assert_same(expected[-1], logits)
    for chunk in (1, 13, 512):
        _, rows = load(tmp_path, weights="i4", prefill_chunk=chunk)._engine.observe(IDS, indices)
        for got, wanted in zip(rows, expected, strict=True):
            assert_same(got, wanted)
    quantize = next(at for at in plain._trace.instructions if at.op == "quantize")
    _, (floats, rounded) = plain._engine.observe(IDS, [quantize.inputs[0], quantize.outputs[0]])
    assert_close(rounded, round_int8_by_powers(floats.astype(np.float64)), 1e-6)


def test_reference_is_transformers(tmp_path):
    tiny.write_hf_llama(tmp_path, dim=72, ffn_dim=100, n_heads=6, n_kv_heads=2, bias=True, tied=False)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager")
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    # transformers takes norms, softmax and rope in float32 even so.
    assert_close(reference_logits(load(tmp_path, weights="f32")._trace, IDS), expected, 2e-6)


def test_reference_of_ops_that_no_llama_has():
    rng = np.random.default_rng(0)
    trace, weights = Trace(), []
    for name, shape in {"table": (40, 24), "up": (30, 24), "down": (24, 30), "head": (40, 24)}.items():
        weights.append(_core.Weight(name, *shape, "f32"))
        weights[-1].pack_rows(0, rng.normal(size=shape).astype(np.float32).view(np.uint8), "f32", POOL)
    table, up, down, head = weights
    scale, shift = rng.normal(1, 0.3, 24).astype(np.float32), rng.normal(size=24).astype(np.float32)
    x = trace.layer_norm(trace.embedding(table), scale, shift, 0.1)
    x = trace.add(x, trace.linear(trace.gelu(trace.linear(x, up)), down))
    x = trace.add(x, trace.linear(trace.gelu(trace.linear(trace.layer_norm(x, scale, None, 1e-5), up), "tanh"), down))
    program = trace.build(trace.mark("logits", trace.linear(trace.select(x), head)), 64)
    engine = _core.Engine(program, POOL, isa="auto", context=64, max_batch=1, prefill_chunk=64)
    ids = rng.integers(0, 40, 50).tolist()
    assert_close(engine.logits(ids), reference_logits(trace, ids), 1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [0, 1, 3])
def test_visible_positions(causal, window):
    visible = Reference(None, range(6))._visible(SimpleNamespace(causal=causal, window=window))
    for at, seen in product(range(6), range(6)):
        expected = (seen <= at or not causal) and (window == 0 or abs(at - seen) < window)
        assert visible[at, seen] == expected


def test_rounding():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 70))
    as_torch = torch.tensor(x, dtype=torch.float32).to(torch.bfloat16).double().numpy()
    assert np.array_equal(round_bf16(x.astype(np.float32).astype(np.float64)), as_torch)
    rounded = round_int8(x, 32)
    assert np.array_equal(round_int8(np.zeros((2, 5)), 4), np.zeros((2, 5)))
    for begin in (0, 32, 64):
        group, got = x[:, begin : begin + 32], rounded[:, begin : begin + 32]
        step = np.abs(group).max(axis=1, keepdims=True) / 127
        assert np.abs(got - group).max() <= step.max() / 2 * (1 + 1e-12)
        assert np.allclose(got / step, np.rint(got / step), atol=1e-9)


def test_rounding_by_powers_takes_the_finest_step_that_fits():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 5, 70)) * np.exp2(-rng.integers(0, 30, (4, 5, 1)))
    x[1, 2, 32:64] = 0
    x[2, 3] = 0
    x[:, :, 32:64] *= np.exp2(-rng.integers(0, 30, (4, 5, 1)))
    rounded, coarsest = round_int8_by_powers(x), np.abs(x).max(axis=-1) / 127
    for begin in (0, 32, 64):
        group = x[..., begin : begin + 32]
        for place in np.ndindex(4, 5):
            fitting = [s for s in range(21) if np.abs(group[place]).max() * 2**s <= coarsest[place] * 127]
            step = coarsest[place] / 2 ** max(fitting)
            expected = np.rint(group[place] / step) * step if step else 0 * group[place]
            np.testing.assert_allclose(rounded[place][begin : begin + 32], expected, rtol=1e-12)


def test_unknown_ops_are_refused():
    class At:
        op = "nothing"

    with pytest.raises(jiffy.Unsupported, match="nothing"):
        Reference(None, IDS).run([At])


@settings(max_examples=80, deadline=None)
@given(
    fmt=st.sampled_from([name for name in jiffy.formats() if name.startswith("i")]),
    n=st.integers(1, 40),
    k=st.integers(1, 300),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    shift=st.sampled_from([0.0, 0.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_packing_stays_within_the_bounds(fmt: str, n: int, k: int, scale: float, shift: float, seed: int):
    values = ((np.random.default_rng(seed).normal(size=(n, k)) + shift) * scale).astype(np.float32)
    weight = _core.Weight("w", n, k, fmt)
    weight.pack_rows(0, values.view(np.uint8), "f32", POOL)
    bounds = weight_bounds(values.astype(np.float64), weight.activations.group, fmt, "f32")
    each = np.repeat(bounds, weight.activations.group, axis=1)[:, :k]
    assert (np.abs(weight.unpack() - values.astype(np.float64)) <= each).all()


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q4_0", "q4_1", "q8_0"])
def test_rows_of_files_are_decoded_as_gguf_does(tmp_path, dtype):
    expected = tiny.write_gguf_llama(tmp_path / "a.gguf", dtype=dtype, tied=False)
    entry = open_checkpoint(tmp_path / "a.gguf").tensors["layers.0.self_attn.q_proj.weight"]
    got = _core.decode_rows(entry.read_rows(0, entry.n_rows), dtype, entry.shape[1])
    assert_same(got, expected[entry.name], entry.name)
    with pytest.raises(jiffy.FormatError, match="uint8 rows of 4096 values"):
        _core.decode_rows(np.zeros((2, 3), np.uint8), dtype, 4096)


def test_command_line(tmp_path):
    good, bad = tmp_path / "good.gguf", tmp_path / "bad.gguf"
    tiny.write_gguf_llama(good, tied=False, dim=96, ffn_dim=160)
    shutil.copy(good, bad)
    damage_scale(bad, "layers.1.mlp.down_proj.weight", 7)
    (tmp_path / "text").write_text("some text")
    healthy = run(str(good), "--text", str(tmp_path / "text"), "--no-fuse", "--threads", "1", "--json")
    assert healthy.returncode == 0, healthy.stderr
    facts = json.loads(healthy.stdout)
    assert facts["first_bad"] is None
    assert facts["n_tokens"] == 9
    assert [part["name"] for part in facts["parts"]] == PARTS
    damaged = run(str(bad), "--against", str(good), "--tokens", "40")
    assert damaged.returncode == 1
    assert "the first bad part is layers.1" in damaged.stdout
    assert "layers.1.mlp.down_proj.weight, row 1, columns 64 to 95: off by" in damaged.stdout
    assert damaged.stderr == ""
    assert json.loads(run(str(bad), "--against", str(good), "--json").stdout)["first_bad"] == "layers.1"
    missing = run(str(good), "--text", str(tmp_path / "none"))
    assert missing.returncode == 1
    assert "expected a text in UTF-8" in missing.stderr
