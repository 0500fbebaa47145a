"""`Model.score`: the log probabilities that transformers gives, and windows over long texts."""

import json

import numpy as np
import pytest
import torch
import transformers

import jiffy
import tiny
from compare import assert_same
from tiny import CONTEXT

pytestmark = pytest.mark.usefixtures("blocks_come_back")
EPS = np.finfo(np.float32).eps


def random_ids(n: int) -> list[int]:
    return np.random.default_rng(n).integers(0, 512, n).tolist()


def reference(logits: np.ndarray, ids: list[int]) -> np.ndarray:
    """float64 [n - 1], straight from the definition; logits [n, vocab_size]."""
    x = logits[:-1].astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return (x - np.log(np.exp(x).sum(axis=1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize("n", [2, 33, CONTEXT])
def test_score_against_transformers(random_folder, random_model, n):
    """The bound is that of logits in test_parity.py: 1e-4 of the largest, here once for the token's own and once for
    the sum over all."""
    torch.set_num_threads(1)
    other = transformers.LlamaForCausalLM.from_pretrained(random_folder, dtype=torch.float32, local_files_only=True)
    ids = random_ids(n)
    with torch.inference_mode():
        logits = other.eval()(torch.tensor([ids])).logits[0].numpy()
    expected, score = reference(logits, ids), random_model.score(token_ids=ids)
    bound = 2e-4 * float(np.abs(logits).max())
    assert score.logprobs.dtype == np.float32 and score.logprobs.shape == (n - 1,)
    assert np.abs(score.logprobs - expected).max() < bound
    assert score.total_logprob == pytest.approx(expected.sum(), abs=bound * n)
    assert score.mean_nll == pytest.approx(-expected.mean(), abs=bound)
    assert score.perplexity == pytest.approx(np.exp(-expected.mean()), rel=2 * bound)
    assert (score.token_ids, score.n_tokens) == (ids, n)


def test_score_is_of_the_logits(random_model):
    """Float32 sums over the vocabulary may be off by eps for each addend."""
    ids = random_ids(200)
    logits = random_model.logits(ids)
    got, expected = random_model.score(token_ids=ids).logprobs, reference(logits, ids)
    assert np.abs(got - expected).max() <= 512 * EPS * np.abs(logits).max()


def test_score_of_a_text(random_model):
    text = "hello there"
    ids = random_model.tokenizer.encode(text)
    expected = random_model.score(token_ids=ids)
    assert_same(random_model.score(text).logprobs, expected.logprobs)
    special = random_model.score("<|eos|>a<|eos|>", parse_special=True)
    assert special.token_ids == random_model.tokenizer.encode("<|eos|>a<|eos|>", parse_special=True)


@pytest.mark.parametrize("model_wants_bos", [False, True])
def test_bos(tmp_path, model_wants_bos):
    tiny.write_hf_llama(tmp_path)
    names = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "add_bos_token": model_wants_bos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    model = jiffy.load(tmp_path, n_threads=1)
    plain = model.tokenizer.encode("ab", add_bos=False)
    with_bos = [tiny.BOS, *plain]
    assert model.score("ab").token_ids == (with_bos if model_wants_bos else plain)
    assert model.score("ab", add_bos=True).token_ids == with_bos
    assert model.score("ab", add_bos=False).token_ids == plain
    assert model.score(token_ids=plain).token_ids == plain
    assert model.score(token_ids=plain, add_bos=True).token_ids == with_bos
    assert model.score(token_ids=with_bos, add_bos=True).token_ids == with_bos
    assert model.score("a", add_bos=True).logprobs.shape == (1,)


def strided_reference(model: jiffy.Model, ids: list[int], stride: int) -> np.ndarray:
    """float64 [n - 1]: for every token the logits behind the one before it, in the first window that holds it."""
    expected = []
    for i in range(1, len(ids)):
        start = max(0, -(-(i + 1 - CONTEXT) // stride)) * stride
        window = model.logits(ids[start:i])[-1].astype(np.float64)
        window -= window.max()
        expected.append(window[ids[i]] - np.log(np.exp(window).sum()))
    return np.array(expected)


@pytest.mark.parametrize(
    ("n", "stride"), [(CONTEXT + 1, 511), (CONTEXT + 1, 1), (CONTEXT + 40, 13), (2 * CONTEXT, 300)]
)
def test_windows(random_model, n, stride):
    ids = random_ids(n)
    score = random_model.score(token_ids=ids, stride=stride)
    expected = strided_reference(random_model, ids, stride)
    assert score.logprobs.dtype == np.float32 and score.n_tokens == n
    assert np.abs(score.logprobs - expected).max() <= 512 * EPS * np.abs(expected).max()


@pytest.mark.parametrize("n", [2, 300, CONTEXT])
def test_one_window_is_none(random_model, n):
    ids = random_ids(n)
    assert_same(random_model.score(token_ids=ids, stride=7).logprobs, random_model.score(token_ids=ids).logprobs)


def test_what_is_too_long_or_too_short(random_model):
    with pytest.raises(jiffy.ContextOverflow) as caught:
        random_model.score(token_ids=random_ids(CONTEXT + 1))
    assert "512" in caught.value.expected and "513" in caught.value.found
    for nothing in ({"text": "a"}, {"text": ""}, {"token_ids": []}, {"token_ids": [1]}):
        with pytest.raises(jiffy.ParameterError):
            random_model.score(**nothing)


def test_an_impossible_text(parrot_model):
    """The parrot is so sure that float64 has no room for the perplexity of another text."""
    score = parrot_model.score("ba")
    assert score.mean_nll > 1000 and score.perplexity == np.inf
    assert parrot_model.score("ab").perplexity == 1.0
