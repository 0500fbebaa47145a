"""Encoder-decoders with float32 weights compute what transformers computes, and write the same texts."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import jiffy
import tiny
import tiny_seq2seq
from compare import assert_close, assert_same
from reference import SHARE
from tiny_seq2seq import MODELS, START

NAMES = list(MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """name -> (folder, transformers' model), made when it is first asked for."""
    made = {}

    def get(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, tiny_seq2seq.write_seq2seq(folder, name)
        return made[name]

    return get


def ids(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([n, seed]).integers(2, 250, n).tolist()


def reference_logits(model, source: list[int], target: list[int]) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("isa", jiffy.isas())
def test_logits(folders, name, isa):
    """Sources of 1 token to 40, and targets that are longer than a bias's reach, in chunks."""
    folder, expected = folders(name)
    model = jiffy.load(folder, weights="f32", n_threads=2, isa=isa, prefill_chunk=13)
    for n in (1, 7, 40):
        source, target = ids(n), [START, *ids(30, seed=1)]
        assert_close(model.logits(source, target), reference_logits(expected, source, target), SHARE, f"{n} tokens")


def drawn(rng: random.Random) -> dict[str, object]:
    beams = rng.choice([1, 2, 4])
    fields = {"n_beams": beams, "n": rng.choice([1, beams]), "max_tokens": rng.choice([5, 20])}
    fields |= {"no_repeat_ngram_size": rng.choice([0, 2, 3])}
    if beams == 1:
        return fields
    return {
        **fields,
        "length_penalty": rng.choice([1.0, 2.0, 0.5]),
        "early_stopping": rng.choice([True, False, "never"]),
    }


@pytest.mark.parametrize("name", NAMES)
def test_texts(folders, name):
    """Greedy and by beams, with what the config forces."""
    folder, expected = folders(name)
    model = jiffy.load(folder, weights="f32", n_threads=2)
    rng = random.Random(1)
    various = set()
    own = {"n_beams": "num_beams", "n": "num_return_sequences", "max_tokens": "max_new_tokens"}
    for case in range(12):
        source, fields = ids(rng.choice([1, 5, 30]), seed=case), drawn(rng)
        asked = {own.get(field, field): value for field, value in fields.items()}
        options = {"do_sample": False, "return_dict_in_generate": True, "output_scores": True}
        mask = torch.ones((1, len(source)), dtype=torch.long)
        found = expected.generate(torch.tensor([source]), attention_mask=mask, **options, **asked)
        got = model.generate(token_ids=source, **fields)
        texts = got if isinstance(got, list) else [got]
        rows = found.sequences[:, 1:].tolist()
        assert [row[: c.n_tokens] for row, c in zip(rows, texts, strict=True)] == [c.token_ids for c in texts]
        assert all(set(row[c.n_tokens :]) <= {tiny.PAD, 1} for row, c in zip(rows, texts, strict=True))
        if fields["n_beams"] > 1:
            assert [c.score for c in texts] == pytest.approx(found.sequences_scores.tolist(), rel=1e-4, abs=1e-4)
        various |= {tuple(c.token_ids) for c in texts}
    assert len(various) > 6 and max(len(set(one)) for one in various) > 3


@pytest.mark.parametrize("name", ["marian", "t5"])
@pytest.mark.parametrize("weights", ["f32", "i8"])
def test_the_same_bits_in_any_company(folders, name, weights):
    """Alone, or in a ragged batch with others; on 1 thread or 3; greedy and by beams."""
    folder, _ = folders(name)
    sources = [ids(n, seed=n) for n in (1, 33, 5, 40, 12, 2, 17)]
    alone = jiffy.load(folder, weights=weights, n_threads=1, max_batch=8)
    others = [jiffy.load(folder, weights=weights, n_threads=n, prefill_chunk=9) for n in (1, 2, 3)]
    for fields in ({}, {"n_beams": 4, "n": 2}):
        expected = [alone.generate(token_ids=one, max_tokens=25, **fields) for one in sources]
        for model in others:
            got = model.generate(token_ids=sources, max_tokens=25, **fields)
            assert list(map(said, got)) == list(map(said, expected))
    for source in sources[:3]:
        target = [START, *ids(20)]
        assert_same(others[2].logits(source, target), alone.logits(source, target))


def said(answer) -> list[tuple]:
    return [(c.token_ids, c.score) for c in (answer if isinstance(answer, list) else [answer])]


@pytest.mark.parametrize("fuse", [True, False])
def test_fusion_changes_no_bit(folders, fuse):
    for name in NAMES:
        folder, _ = folders(name)
        models = [jiffy.load(folder, weights="i8g32", n_threads=2, fuse=fuse) for fuse in (True, False)]
        source, target = ids(20), [START, *ids(9)]
        assert_same(*(model.logits(source, target) for model in models))


def test_nothing_is_left_behind(folders):
    folder, _ = folders("marian")
    model = jiffy.load(folder, weights="f32", n_threads=2, max_batch=4)
    model.generate(token_ids=[ids(n) for n in range(1, 30)], n_beams=3, max_tokens=9)
    model.logits(ids(5), [START])
    engine = model._engine
    assert engine.idle() and not model._running._events
    assert engine.n_free_blocks == engine.n_blocks and engine.n_free_source_blocks == engine.n_source_blocks > 0
