"""What a model says: lengths, stops, sampling."""

import numpy as np
import pytest

import jiffy
import tiny
from parrot import after
from tiny import CONTEXT

pytestmark = pytest.mark.usefixtures("blocks_come_back")


def test_a_prompt_gives_a_completion(parrot_model):
    completion = parrot_model.generate("xyz.", max_tokens=10)
    assert completion.text == "abé😀cd"
    assert completion.token_ids == parrot_model.tokenizer.encode("abé😀cd")
    assert (completion.n_prompt_tokens, completion.n_tokens, completion.finish_reason) == (4, 10, "length")
    timings = completion.timings
    assert 0 < timings.ttft <= timings.total and timings.itl > 0
    assert timings.tokens_per_second == pytest.approx(1 / timings.itl)
    assert timings.total == pytest.approx(timings.ttft + 9 * timings.itl)


def test_a_list_gives_a_list_in_order(parrot_model):
    starts = ["a", "xyz", "d", "ab", "."] * 30  # more than max_batch
    completions = parrot_model.generate(starts, max_tokens=7)
    assert [c.token_ids for c in completions] == [parrot_model.generate(s, max_tokens=7).token_ids for s in starts]
    assert [c.n_prompt_tokens for c in completions] == [len(s) for s in starts]
    assert parrot_model.generate([]) == []
    assert [c.text for c in parrot_model.generate(["a"], max_tokens=1)] == ["b"]


def test_token_ids_are_taken_as_they_are(random_model):
    ids = random_model.tokenizer.encode("hello there")
    long, short = (random_model.generate(token_ids=i, max_tokens=9).token_ids for i in (ids, ids[:3]))
    assert long == random_model.generate("hello there", max_tokens=9).token_ids
    assert [c.token_ids for c in random_model.generate(token_ids=[ids, ids[:3]], max_tokens=9)] == [long, short]


def test_greedy_follows_the_logits(random_model):
    ids = random_model.tokenizer.encode("hello there")
    answer = random_model.generate(token_ids=ids, max_tokens=12, ignore_eos=True).token_ids
    logits = random_model.logits(ids + answer)
    assert logits.dtype == np.float32 and logits.shape == (len(ids) + 12, 512)
    assert logits[len(ids) - 1 : -1].argmax(axis=1).tolist() == answer


@pytest.mark.parametrize("n", [1, 2, 17])
def test_max_tokens(parrot_model, n):
    completion = parrot_model.generate("a", max_tokens=n)
    assert (completion.n_tokens, completion.finish_reason) == (n, "length")


@pytest.mark.parametrize("n_prompt", [1, CONTEXT - 1, CONTEXT])
def test_a_full_context_ends_the_answer(parrot_model, n_prompt):
    """The last token's own keys and values are never computed, so it needs no position."""
    completion = parrot_model.generate(token_ids=[100] * n_prompt, max_tokens=10_000)
    assert (completion.n_tokens, completion.finish_reason) == (CONTEXT + 1 - n_prompt, "length")


def test_end_of_sequence(parrot_model):
    completion = parrot_model.generate(token_ids=[tiny.PAD], max_tokens=20)
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", [tiny.EOS], "stop")
    completion = parrot_model.generate(token_ids=[tiny.PAD], max_tokens=5, ignore_eos=True)
    assert (completion.text, completion.token_ids[0], completion.finish_reason) == ("abé", tiny.EOS, "length")


STOPS = [
    *("b", "😀", "é😀c", "€ x", "d", "zzz", ".abé😀cd€ xyz.a"),
    *((), ("cd€!", "d€"), ("€ x", "cd"), ("😀cd", "😀c", "é😀cd€")),
]


@pytest.mark.parametrize("stop", STOPS, ids=repr)
def test_stop_strings(parrot_model, stop):
    """Most lie across tokens, which are bytes. What is complete first ends the text, and no part of it shows."""
    stops = (stop,) if isinstance(stop, str) else stop
    whole = after("a", 60)
    found = [(at + len(s), at) for s in stops if (at := whole.find(s)) >= 0]
    expected = whole[: min(found)[1]] if found else None
    with parrot_model.stream("a", max_tokens=60, stop=stops) as stream:
        pieces = list(stream)
    result = stream.result()
    assert "".join(pieces) == result.text == parrot_model.generate("a", max_tokens=60, stop=stops).text
    assert all(pieces), "an empty piece"
    if expected is not None:
        assert (result.text, result.finish_reason) == (expected, "stop")
        assert result.n_tokens < 60
    else:
        assert (result.n_tokens, result.finish_reason) == (60, "length")


def test_a_stop_string_that_does_not_come_is_given_back(parrot_model):
    """What was held back because it could begin a stop string is text after all."""
    with parrot_model.stream("a", max_tokens=20, stop="cd€!") as stream:
        pieces = list(stream)
    assert pieces[:4] == ["b", "é", "😀", "cd€ "]


def test_seeds(random_model):
    def answers(seed: int) -> list[int]:
        return random_model.generate("hello", max_tokens=32, temperature=1.0, seed=seed, ignore_eos=True).token_ids

    assert answers(1) == answers(1)
    assert len({tuple(answers(seed)) for seed in (*range(20), 2**32, 2**63, 2**64 - 1)}) == 23


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-5}], ids=repr)
def test_what_equals_greedy(random_model, fields):
    greedy = random_model.generate("hello", max_tokens=32, ignore_eos=True).token_ids
    for seed in range(3):
        fields = {"temperature": 2.0, **fields, "seed": seed}
        assert random_model.generate("hello", max_tokens=32, ignore_eos=True, **fields).token_ids == greedy


def _kept(probabilities: np.ndarray, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> np.ndarray:
    """The probabilities after the three cuts, straight from their definitions."""
    order = np.argsort(-probabilities, kind="stable")
    p = probabilities[order]
    p[top_k or len(p) :] = 0
    before = (np.cumsum(p) - p) / p.sum()
    p[(before >= top_p) | (p < min_p * p[0])] = 0
    kept = np.zeros_like(p)
    kept[order] = p / p.sum()
    return kept


CUTS = [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.3}, {"top_k": 40, "top_p": 0.8, "min_p": 0.05}]


@pytest.mark.parametrize("cut", CUTS, ids=repr)
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_frequencies(quick_model, temperature, cut):
    """Pearson's chi^2 over the first tokens of 2000 seeds. With k bins of at least 5 expected draws it has a mean of
    k - 1 and a variance of 2(k - 1): six standard deviations are a bound that chance passes once in millions."""
    n = 2000
    logits = quick_model.logits(quick_model.tokenizer.encode("hello"))[-1].astype(np.float64) / temperature
    expected = n * _kept(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum(), **cut)
    fields = {"max_tokens": 1, "temperature": temperature, **cut}
    drawn = [quick_model.generate("hello", seed=seed, **fields).token_ids[0] for seed in range(n)]
    counts = np.bincount(drawn, minlength=512)
    assert not counts[expected == 0].any(), "a token that the cuts leave out"
    large = expected >= 5
    bins = np.append(expected[large], expected[~large].sum())
    observed = np.append(counts[large], counts[~large].sum())
    chi2 = (((observed - bins) ** 2)[bins > 0] / bins[bins > 0]).sum()
    freedom = max((bins > 0).sum() - 1, 1)
    assert chi2 < freedom + 6 * np.sqrt(2 * freedom)


def test_a_request_that_fails_to_start_stops_the_others(random_model):
    free = random_model._engine.n_free_blocks
    with pytest.raises(jiffy.ContextOverflow):
        random_model.generate(token_ids=[[1, 2], [3] * (CONTEXT + 1)])
    assert random_model._engine.n_free_blocks == free


def test_parse_special(random_model):
    text = "<|eos|>a"
    plain, special = random_model.tokenizer.encode(text), random_model.tokenizer.encode(text, parse_special=True)
    assert tiny.EOS not in plain and special[0] == tiny.EOS
    for stream, ids in ((False, plain), (True, special)):
        expected = random_model.generate(token_ids=ids, max_tokens=5).token_ids
        assert random_model.generate(text, max_tokens=5, parse_special=stream).token_ids == expected
        with random_model.stream(text, max_tokens=5, parse_special=stream) as running:
            list(running)
        assert running.result().token_ids == expected


def test_params_and_fields(parrot_model):
    params = jiffy.SamplingParams(max_tokens=4, stop="zzz")
    assert params.stop == ("zzz",)
    assert parrot_model.generate("a", params=params).n_tokens == 4
    assert parrot_model.generate("a", params=params, max_tokens=2).n_tokens == 2
    assert params.max_tokens == 4


def test_info(random_model):
    info = random_model.info()
    assert info["architecture"] == "llama" and info["layers"] == 2 and info["vocab_size"] == 512
    assert (info["dim"], info["heads"], info["kv_heads"]) == (48, 3, 1)
    assert info["formats"] == {"f32": info["parameters"]} and info["packed_bytes"] >= 4 * info["parameters"]
    assert info["context"] == CONTEXT and info["threads"] == 2 and info["isa"] in jiffy.isas()
    assert info["kv_bytes"] > 0 and info["kv_dtype"] == "f32"
    assert (info["max_batch"], info["prefill_chunk"], info["prefix_cache"]) == (64, 512, True)


def test_the_prefix_cache(random_folder):
    """Off, nothing is taken from it; on, all whole blocks of a prompt that was there before. The answer is the same."""
    ids = [(i * 7) % 512 for i in range(200)]
    answers = []
    for prefix_cache, n_cached in ((False, 0), (True, 192)):
        model = jiffy.load(random_folder, context=CONTEXT, n_threads=1, prefix_cache=prefix_cache)
        for _ in range(2):
            answers.append(model.generate(token_ids=ids, max_tokens=10, ignore_eos=True).token_ids)
        assert model.info()["prefix_cache"] is prefix_cache
        assert model.info()["cached_tokens"] == n_cached
    assert answers == [answers[0]] * 4


def test_kv_dtypes(random_folder):
    for kv_dtype in ("f32", "bf16", "int8"):
        model = jiffy.load(random_folder, context=CONTEXT, n_threads=1, kv_dtype=kv_dtype)
        assert model.info()["kv_dtype"] == kv_dtype
        assert model.generate("hello", max_tokens=5, ignore_eos=True).n_tokens == 5


@pytest.mark.parametrize(("options", "kv_dtype"), [({}, "f32"), ({"weights": "i4"}, "bf16"), ({"head": "i8"}, "bf16")])
def test_kv_dtype_of_itself(random_folder, options, kv_dtype):
    """The random model's file holds f32."""
    assert jiffy.load(random_folder, context=CONTEXT, n_threads=1, **options).info()["kv_dtype"] == kv_dtype
