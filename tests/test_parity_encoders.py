"""With float32 weights encoders and their heads compute what transformers computes, to 1e-4 of the largest value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jiffy
import tiny_encoders as tiny
from compare import assert_close, assert_same

SHARE = 1e-4
LENGTHS = (1, 2, 5, 31, 33, 200, 512)


def random_ids(n: int, seed: int = 0) -> list[int]:
    """No special ones: transformers counts the positions of some models by what is no padding."""
    return np.random.default_rng(seed + n).integers(len(tiny.SPECIALS), tiny.VOCAB, n).tolist()


def outputs(model: torch.nn.Module, ids: list[int], types: list[int] | None = None) -> np.ndarray:
    given = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        out = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **given)
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], dim=1).numpy()
    found = out.logits if "logits" in out else out.last_hidden_state
    return found.numpy() if found.ndim == 2 else found[0].numpy()


@pytest.mark.parametrize("task", tiny.TASKS)
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_architecture_and_head(tmp_path, name, task):
    model = tiny.write(tmp_path, name, task)
    encoder = jiffy.load(tmp_path, weights="f32")
    ask = encoder.scores if task else encoder.hidden_states
    for n in LENGTHS:
        ids = random_ids(n)
        assert_close(ask(token_ids=ids), outputs(model, ids), SHARE, f"{n} tokens")


@pytest.mark.parametrize("name", ["bert", "electra", "albert"])
def test_types_of_a_pair(tmp_path, name):
    model = tiny.write(tmp_path, name)
    encoder = jiffy.load(tmp_path, weights="f32")
    tokens = encoder.reader.read([("one text", "and another one")], 512)[0]
    assert sorted(set(tokens.type_ids)) == [0, 1]
    expected = outputs(model, tokens.ids, tokens.type_ids)
    assert_close(encoder.hidden_states(("one text", "and another one")), expected, SHARE)
    assert np.abs(outputs(model, tokens.ids) - expected).max() > 0.01


@pytest.mark.parametrize("isa", jiffy.isas())
@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert"])
def test_every_instruction_set(tmp_path, name, isa):
    model = tiny.write(tmp_path, name)
    encoder = jiffy.load(tmp_path, weights="f32", isa=isa)
    ids = random_ids(300)
    assert_close(encoder.hidden_states(token_ids=ids), outputs(model, ids), SHARE)


@pytest.mark.parametrize("weights", jiffy.formats())
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_fused_programs_give_the_same_bits(tmp_path, name, weights):
    tiny.write(tmp_path, name, "mask")
    ids = random_ids(77)
    fused, plain = (jiffy.load(tmp_path, weights=weights, fuse=fuse) for fuse in (True, False))
    assert_same(fused.scores(token_ids=ids), plain.scores(token_ids=ids))


def test_old_names_and_counters_of_positions(tmp_path):
    """LayerNorm.gamma and .beta, position_ids in int64, and a body without its prefix."""
    from safetensors.numpy import load_file, save_file

    tiny.write(tmp_path, "bert")
    before = jiffy.load(tmp_path, weights="f32").hidden_states("some text")
    tensors = load_file(tmp_path / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {f"bert.{key.removeprefix('bert.').replace(new, name)}": value for key, value in tensors.items()}
    tensors["bert.embeddings.position_ids"] = np.arange(514)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same(jiffy.load(tmp_path, weights="f32").hidden_states("some text"), before)


@pytest.mark.parametrize(("name", "store"), [("bert", "kv_write"), ("modernbert", "rope_kv_write")])
def test_what_attention_is_fused_to(tmp_path, name, store):
    """q, k and v are one instruction, and the sum is the projection's own."""
    tiny.write(tmp_path, name)
    ops = jiffy.load_encoder(tmp_path, weights="i8")._prepared.programs["hidden"].program.fused().ops
    assert f"quantize matmul {store} attention quantize matmul layer_norm" in " ".join(ops)
    assert ops.count("add") == (2 if name == "bert" else 0)  # of tables
