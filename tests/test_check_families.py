"""`jiffy check` of encoders and encoder-decoders: healthy ones pass, one damaged scale is found and its part named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jiffy
import tiny_encoders
import tiny_marian
import tiny_seq2seq
from compare import assert_close
from jiffy.check import EncoderReport, Report, check, tokens_of
from jiffy.check_text import TEXT
from jiffy.encoder_config import ENCODERS
from jiffy.reference import Reference

IDS = np.random.default_rng(0).integers(5, tiny_encoders.VOCAB, 40).tolist()
SOURCE = np.random.default_rng(0).integers(3, len(tiny_marian.PIECES), 20).tolist()
SEQ2SEQ = [*tiny_seq2seq.MODELS, "student", "attention"]


def write_seq2seq(folder: Path, name: str, **options: object) -> None:
    if name in tiny_seq2seq.MODELS:
        tiny_seq2seq.write_seq2seq(folder, name, **options)
        if name.startswith("t5"):  # nothing divides its products, so that trained queries are smaller than others
            tensors = load_file(folder / "model.safetensors")
            smaller = {part: value / 4 for part, value in tensors.items() if part.endswith("Attention.q.weight")}
            save_file({**tensors, **smaller}, folder / "model.safetensors")
    else:
        tiny_marian.write_marian(folder, recurrent=name == "student", **options)


def assert_healthy(report: Report | EncoderReport) -> None:
    bad = report.first_bad
    assert bad is None, f"{bad.name}: {bad.bound_share:.2f} of its bound, {bad.weight_faults}"


def names(report: Report | EncoderReport) -> list[str]:
    return [part.name for part in report.parts]


@pytest.mark.parametrize(
    ("task", "weights"),
    [("", "f32"), ("", "bf16"), ("", "i8"), ("", "i4a"), ("sequence", "f32"), ("mask", "f32"), ("mask", "i8")],
)
@pytest.mark.parametrize("name", tiny_encoders.CONFIGS)
def test_healthy_encoders_pass(tmp_path, name, task, weights):
    tiny_encoders.write(tmp_path, name, task)
    encoder = jiffy.load_encoder(tmp_path, weights=weights, n_threads=2)
    report = check(encoder, IDS)
    assert_healthy(report)
    layers = encoder.config.n_layers
    assert names(report)[0] == "embeddings" and names(report)[-1] == ("head" if task else "embedding")
    assert sum(one.startswith("layers.") for one in names(report)) == layers
    assert report.cosine > {"f32": 0.999999, "bf16": 0.99, "i8": 0.98, "i4a": 0.5}[weights]
    assert (report.changed_top1 is None) == (task == "") and (weights != "f32" or not report.changed_top1)
    for part in report.parts[1:]:
        assert (part.loss == 0) == (weights == "f32") or part.name in ("embedding", "final_norm"), part


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["mpnet", "modernbert"])
def test_keys_and_values_of_encoders(tmp_path, name, kv_dtype):
    tiny_encoders.write(tmp_path, name)
    exact, rounded = (check(jiffy.load_encoder(tmp_path, weights="f32", kv_dtype=kv), IDS) for kv in ("f32", kv_dtype))
    assert_healthy(rounded)
    assert all(b.error > a.error for a, b in zip(exact.parts[1:4], rounded.parts[1:4], strict=True))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("fuse", [True, False])
def test_every_pooling(tmp_path, pooling, fuse):
    tiny_encoders.write(tmp_path, "bert")
    tiny_encoders.write_modules(tmp_path, True, {"pooling_mode": pooling})
    report = check(jiffy.load_encoder(tmp_path, weights="i8g32", fuse=fuse), IDS)
    assert_healthy(report)
    assert len(report.parts) == 5


@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert"])
def test_the_reference_is_transformers(tmp_path, name):
    import torch

    model = tiny_encoders.write(tmp_path, name).double()
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).last_hidden_state[0].numpy()
    trace = jiffy.load_encoder(tmp_path, weights="f32").trace("hidden")
    reference = Reference(trace, IDS)
    reference.run(trace.instructions)
    assert_close(reference.values[list(trace.marks.values())[-1].index], expected, 3e-6)


def damage(path: Path, tensor: str, row: int) -> None:
    """A row of a tensor a quarter larger, as if its scale were."""
    tensors = load_file(path / "model.safetensors")
    tensors[tensor] = tensors[tensor].copy()
    tensors[tensor][row] *= 1.25
    save_file(tensors, path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "task", "tensor", "part", "ours"),
    [
        ("bert", "", "encoder.layer.1.output.dense.weight", "layers.1", "layers.1.down.weight"),
        ("bert", "sequence", "bert.encoder.layer.2.attention.self.value.weight", "layers.2", "layers.2.v.weight"),
        ("bert", "sequence", "classifier.weight", "head", "head.out.weight"),
        ("mpnet", "", "encoder.layer.0.attention.attn.q.weight", "layers.0", "layers.0.q.weight"),
        ("modernbert", "", "layers.3.mlp.Wo.weight", "layers.3", "layers.3.down.weight"),
    ],
)
@pytest.mark.parametrize("weights", ["f32", "i8g32"])
def test_one_damaged_scale_of_an_encoder_is_found(tmp_path, name, task, tensor, part, ours, weights):
    tiny_encoders.write(tmp_path / "good", name, task)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    damage(tmp_path / "bad", tensor, 2)
    encoder = jiffy.load_encoder(tmp_path / "bad", weights=weights)
    report = check(encoder, IDS, against=tmp_path / "good")
    assert [one.name for one in report.parts if one.bad] == [part]
    (fault,) = report.first_bad.weight_faults
    assert (fault.name, fault.row) == (ours, 2) and fault.error > fault.bound
    assert_healthy(check(encoder, IDS))  # no one can tell from the damaged file alone


def test_one_damaged_scale_of_a_rotated_layer_is_found(tmp_path):
    tiny_encoders.write(tmp_path / "good", "bert", hidden_size=128, num_attention_heads=4, intermediate_size=256)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    damage(tmp_path / "bad", "encoder.layer.1.output.dense.weight", 2)
    encoder = jiffy.load_encoder(tmp_path / "bad", weights="i8")
    report = check(encoder, IDS, against=tmp_path / "good")
    assert [one.name for one in report.parts if one.bad] == ["layers.1"]
    assert report.first_bad.weight_faults[0].row == 2
    assert_healthy(check(encoder, IDS))


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_an_engine_that_computes_something_else_is_found(tmp_path, which):
    """A norm's weight of 36, or of 32, is a half larger in the engine than in the trace."""
    if which == "encoder":
        tiny_encoders.write(tmp_path / "one", "bert")
        name, load = "encoder.layer.1.output.LayerNorm.weight", jiffy.load_encoder
    else:
        write_seq2seq(tmp_path / "one", "bart")
        name, load = "model.decoder.layers.1.encoder_attn_layer_norm.weight", jiffy.load
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    tensors[name] = tensors[name].copy()
    tensors[name][7] *= 1.5
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    model, other = (load(tmp_path / one, weights="i8") for one in ("one", "other"))
    if which == "encoder":
        model._programs = {model.usual_program: other._native(model.usual_program)}
    else:
        model._engine = other._engine
    bad = [part for part in check(model, IDS[:20] if which == "encoder" else SOURCE).parts if part.bad]
    assert [part.name for part in bad] == ["layers.1" if which == "encoder" else "decoder.layers.1"]
    assert bad[0].bound_share > 1 and not bad[0].weight_faults


@pytest.mark.parametrize("weights", ["f32", "bf16", "i8", "i4a"])
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_healthy_encoder_decoders_pass(tmp_path, name, weights):
    write_seq2seq(tmp_path, name)
    model = jiffy.load(tmp_path, weights=weights, n_threads=2, prefill_chunk=7)
    report = check(model, SOURCE)
    assert_healthy(report)
    sides = [[f"{side}.embeddings", *(f"{side}.layers.{i}" for i in range(stack.n_layers))]
             for side, stack in (("encoder", model.config.encoder), ("decoder", model.config.decoder))]  # fmt: skip
    assert names(report) == [*sides[0], "keys and values", *sides[1], "logits"]
    assert 0 <= report.kl_mean <= report.kl_max < {"f32": 1e-6, "bf16": 1, "i8": 3, "i4a": 30}[weights]
    for part in report.parts:
        embeddings = part.name.endswith("embeddings")
        assert embeddings or (part.loss == 0) == (weights == "f32"), part


@pytest.mark.parametrize("kv_dtype", ["bf16", "int8"])
def test_keys_and_values_of_encoder_decoders(tmp_path, kv_dtype):
    write_seq2seq(tmp_path, "t5")
    report = check(jiffy.load(tmp_path, weights="f32", kv_dtype=kv_dtype), SOURCE)
    assert_healthy(report)
    assert next(part for part in report.parts if part.name == "decoder.layers.0").error > 1e-4


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("model.encoder.layers.1.fc1.weight", "encoder.layers.1"),
        ("model.decoder.layers.2.encoder_attn.v_proj.weight", "keys and values"),
        ("model.decoder.layers.0.encoder_attn.q_proj.weight", "decoder.layers.0"),
    ],
)
def test_one_damaged_scale_of_an_encoder_decoder_is_found(tmp_path, tensor, part):
    write_seq2seq(tmp_path / "good", "bart")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    damage(tmp_path / "bad", tensor, 2)
    report = check(jiffy.load(tmp_path / "bad", weights="i8g32"), SOURCE, against=tmp_path / "good")
    assert [one.name for one in report.parts if one.bad] == [part]


def test_a_packed_model_is_compared_with_its_source(tmp_path):
    tiny_encoders.write(tmp_path / "m", "bert", "token")
    write_seq2seq(tmp_path / "s", "student")
    for folder, ids in (("m", IDS), ("s", SOURCE)):
        jiffy.pack(tmp_path / folder, tmp_path / "packed.jiffy", weights="i8")
        model = jiffy.load(tmp_path / "packed.jiffy")
        assert_healthy(check(model, ids, against=tmp_path / folder))
        assert names(check(model, ids, against=tmp_path / folder)) == names(check(jiffy.load(tmp_path / folder), ids))
        with pytest.raises(jiffy.Unsupported, match="expected the file or folder that it was packed from"):
            check(model, ids)


def test_errors_name_what_is_wrong(tmp_path, random_folder):
    tiny_encoders.write(tmp_path / "m", "bert")
    tiny_encoders.write(tmp_path / "deeper", "bert", num_hidden_layers=4)
    encoder = jiffy.load_encoder(tmp_path / "m")
    for against in (random_folder, tmp_path / "deeper"):
        with pytest.raises(jiffy.ParameterError, match="against: expected a (bert|model of the parts)"):
            check(encoder, IDS, against=against)
    with pytest.raises(jiffy.ParameterError, match="at least two tokens"):
        check(encoder, [5])
    with pytest.raises(jiffy.ContextOverflow):
        check(encoder, IDS * 20)
    assert len(ENCODERS) <= len(tiny_encoders.CONFIGS), "every kind is checked here"


def test_real_models():
    for model, least in ((jiffy.load_encoder(weights="i8g32"), 7), (jiffy.load("marian-en-pt"), 9)):
        report = check(model, tokens_of(model, TEXT, 40))
        assert_healthy(report)
        assert len(report.parts) >= least
        assert report.cosine > 0.998 if isinstance(report, EncoderReport) else report.changed_top1 < 0.2


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", "check", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_command_line(tmp_path):
    tiny_encoders.write(tmp_path / "good", "bert", "sequence")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    damage(tmp_path / "bad", "bert.encoder.layer.1.output.dense.weight", 2)
    healthy = run(str(tmp_path / "good"), "--tokens", "30", "--weights", "i8")
    assert healthy.returncode == 0 and "cosine with the reference's result" in healthy.stdout, healthy.stderr
    assert "largest score changed in 0.0% of the rows" in healthy.stdout
    damaged = run(str(tmp_path / "bad"), "--against", str(tmp_path / "good"), "--tokens", "30")
    assert damaged.returncode == 1 and "the first bad part is layers.1" in damaged.stdout
    assert "layers.1.down.weight, row 2, columns" in damaged.stdout
    facts = json.loads(run(str(tmp_path / "good"), "--json").stdout)
    assert facts["first_bad"] is None and facts["cosine"] > 0.99
    write_seq2seq(tmp_path / "s", "student")
    facts = json.loads(run(str(tmp_path / "s"), "--json", "--tokens", "20").stdout)
    assert facts["first_bad"] is None and facts["n_tokens"] == 20 and facts["parts"][-1]["name"] == "logits"
