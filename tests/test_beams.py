"""Beam search finds the texts that transformers finds, with the same scores, beside any companions."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

import jiffy
import tiny
from reference import random_ids, reference

pytestmark = pytest.mark.usefixtures("blocks_come_back")
_NOTHING = -1e8  # transformers fills up what it hasn't found with texts of such scores


@pytest.fixture(scope="module")
def eos_model(random_folder):
    """A function that loads the random model with other tokens that end a text."""

    def load(eos_ids: list[int], **options) -> jiffy.Model:
        model = jiffy.load(random_folder, weights="f32", context=tiny.CONTEXT, **options)
        model.config = dataclasses.replace(model.config, eos_ids=tuple(eos_ids))
        return model

    return load


def drawn(rng: random.Random) -> dict[str, object]:
    """Fields of a request."""
    beams, most = rng.choice([2, 3, 4, 5, 8]), rng.choice([1, 2, 10, 25])
    return {
        "n_beams": beams,
        "n": rng.choice([1, beams]),
        "max_tokens": most,
        "min_tokens": rng.choice([0, 0, min(most - 1, 4)]),
        "length_penalty": rng.choice([0.0, 1.0, 2.0, -1.0, 0.6]),
        "early_stopping": rng.choice([True, False, "never"]),
        "no_repeat_ngram_size": rng.choice([0, 0, 1, 2, 3]),
        "bad_words_ids": rng.choice([(), ((5,),), ((7, 9), (11,))]),
        "forced_eos_token_id": rng.choice([None, 44]),
    }


def expected(model, ids: list[int], eos: list[int], fields: dict) -> list[tuple[list[int], float]]:
    prompt = torch.tensor([ids])
    own = {"n_beams": "num_beams", "n": "num_return_sequences", "max_tokens": "max_new_tokens"}
    own |= {"min_tokens": "min_new_tokens"}
    asked = {own.get(name, name): value or None if name == "min_tokens" else value for name, value in fields.items()}
    asked["bad_words_ids"] = [list(run) for run in fields.get("bad_words_ids", ())] or None
    found = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=tiny.PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **asked,
    )
    rows = zip(found.sequences[:, len(ids) :].tolist(), found.sequences_scores.tolist(), strict=True)
    return [(row, score) for row, score in rows if score > _NOTHING]


def assert_found(got: list[jiffy.Completion], texts: list[tuple[list[int], float]]) -> None:
    assert len(got) == len(texts)
    for completion, (ids, score) in zip(got, texts, strict=True):
        n = completion.n_tokens
        assert completion.token_ids == ids[:n] and set(ids[n:]) <= {tiny.PAD}
        assert completion.score == pytest.approx(score, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_the_texts_that_transformers_finds(random_folder, eos_model, seed):
    rng = random.Random(seed)
    eos = rng.sample(range(256), rng.choice([1, 1, 2]))
    model, other = eos_model(eos), reference(random_folder)
    for _ in range(8):
        ids, fields = random_ids(rng.choice([1, 5, 40]), 256), drawn(rng)
        if len(ids) == 1:
            fields["forced_bos_token_id"] = rng.choice([None, 33])
        got = model.generate(token_ids=ids, **fields)
        assert_found(got if isinstance(got, list) else [got], expected(other, ids, eos, fields))


def test_one_beam_with_constraints_is_greedy(random_folder, eos_model):
    model, other = eos_model([3]), reference(random_folder)
    for n, fields in enumerate(({"no_repeat_ngram_size": 2}, {"bad_words_ids": ((7,), (2, 8))}, {"min_tokens": 6})):
        ids = random_ids(9 + n, 256)
        free = model.generate(token_ids=ids, max_tokens=30).token_ids
        if "bad_words_ids" in fields:
            fields = {"bad_words_ids": (tuple(free[4:6]), (free[8],))}
        own = {"min_tokens": "min_new_tokens"}
        asked = {own.get(name, name): value for name, value in fields.items()}
        asked |= {"bad_words_ids": [list(run) for run in fields["bad_words_ids"]]} if "bad_words_ids" in fields else {}
        prompt = torch.tensor([ids])
        options = {"do_sample": False, "eos_token_id": 3, "pad_token_id": tiny.PAD, "max_new_tokens": 30}
        tokens = other.generate(prompt, attention_mask=torch.ones_like(prompt), **options, **asked)[0, len(ids) :]
        assert model.generate(token_ids=ids, max_tokens=30, **fields).token_ids == tokens.tolist()


def test_a_search_is_the_same_in_any_company(random_model, quick_model):
    """In one ragged step with other searches and plain requests, on one thread or two; sharing prefixes or not."""
    prompts = [random_ids(n, 256) for n in (1, 70, 33, 200, 70)]
    fields = {"n_beams": 4, "n": 4, "max_tokens": 40, "length_penalty": 0.7}
    together = random_model.generate(token_ids=prompts, **fields)
    for ids, texts in zip(prompts, together, strict=True):
        alone = quick_model.generate(token_ids=ids, **fields)
        assert [(c.token_ids, c.score, c.finish_reason) for c in texts] == [
            (c.token_ids, c.score, c.finish_reason) for c in alone
        ]


def test_beams_beyond_the_memory_take_turns(random_folder):
    """Two searches need 98 blocks of 96."""
    model = jiffy.load(random_folder, context=2048, max_batch=4, n_threads=2)
    prompts = [random_ids(1450, 256), random_ids(1451, 256)]
    fields = {"n_beams": 2, "max_tokens": 100}
    together = model.generate(token_ids=prompts, **fields)
    alone = [model.generate(token_ids=ids, **fields) for ids in prompts]
    assert [(c.token_ids, c.score) for c in together] == [(c.token_ids, c.score) for c in alone]
    assert model._engine.n_free_blocks == model._engine.n_blocks


def test_the_text_is_that_of_the_tokens(parrot_model):
    completion = parrot_model.generate("xyz.", max_tokens=10, n_beams=3)
    assert completion.token_ids == parrot_model.generate("xyz.", max_tokens=10).token_ids
    assert (completion.text, completion.finish_reason, completion.score is None) == ("abé😀cd", "length", False)
    ended = parrot_model.generate(token_ids=[tiny.PAD], max_tokens=20, n_beams=2)
    assert (ended.text, ended.token_ids, ended.finish_reason) == ("", [tiny.EOS], "stop")


def test_more_beams_than_tokens_to_choose_from(random_model):
    """One token is allowed at first, then two; what is found is all there is."""
    allowed = {3, 4}
    forbidden = tuple((i,) for i in range(512) if i not in allowed)
    got = random_model.generate(
        token_ids=[1], n_beams=8, n=8, max_tokens=3, forced_bos_token_id=9, bad_words_ids=forbidden
    )
    assert sorted(c.token_ids for c in got) == [[9, a, b] for a in (3, 4) for b in (3, 4)]


def test_no_token_is_allowed(random_model):
    everything = tuple((i,) for i in range(512))
    for beams in (1, 3):
        with pytest.raises(jiffy.ParameterError, match="bad_words_ids"):
            random_model.generate("a", bad_words_ids=everything, n_beams=beams)
    random_model.generate("a", max_tokens=2)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"n_beams": 0}, "n_beams"),
        ({"n_beams": 65}, "n_beams"),  # more than max_batch
        ({"n_beams": 2, "n": 3}, "n"),
        ({"n_beams": 2, "temperature": 0.5}, "temperature"),
        ({"n_beams": 2, "repetition_penalty": 1.5}, "repetition_penalty"),
        ({"n_beams": 2, "logprobs": 1}, "logprobs"),
        ({"n_beams": 2, "stop": "x"}, "stop"),
        ({"n_beams": 2, "length_penalty": float("nan")}, "length_penalty"),
        ({"n_beams": 2, "early_stopping": "always"}, "early_stopping"),
        ({"early_stopping": 1.0}, "early_stopping"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"no_repeat_ngram_size": True}, "no_repeat_ngram_size"),
        ({"forced_bos_token_id": 512}, "forced_bos_token_id"),
        ({"forced_eos_token_id": -1}, "forced_eos_token_id"),
        ({"bad_words_ids": ((512,),)}, "bad_words_ids"),
        ({"bad_words_ids": ((),)}, "bad_words_ids"),
        ({"bad_words_ids": "ab"}, "bad_words_ids"),
    ],
)
def test_bad_fields(random_model, fields, name):
    with pytest.raises(jiffy.ParameterError, match=name):
        random_model.generate("a", **fields)


def test_beams_are_not_for_streams(random_model):
    with pytest.raises(jiffy.ParameterError, match="n_beams"):
        random_model.stream("a", n_beams=2)
