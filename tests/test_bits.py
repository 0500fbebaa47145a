"""The same bits, whatever computes them: instruction set, threads, chunks of the prompt, companions in the batch.

Quantised weights keep that promise across instruction sets, float weights within one. What a batch computes is seen
only through its tokens, so `chaotic_llama` has a head in which the last bits of the hidden state choose the token.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

import jiffy
import tiny
from compare import assert_same

ISAS = jiffy.isas()
THREADS = (1, 2, 3, 5)
CHUNKS = (1, 7, 64, 512)
# Groups of 32, 64 and 128 that the sizes below leave incomplete, with and without offsets.
FORMATS = ("i4", "i4a", "i8", "i8g32", "i4g64", "i4g128a")
ODD = {"dim": 148, "ffn_dim": 203, "n_heads": 6, "n_kv_heads": 2, "head_dim": 22, "tied": False}


def random_ids(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([n, seed]).integers(0, 256, n).tolist()


def prompts_beside(n_companions: int) -> list[list[int]]:
    """The prompt in question is in the middle, of companions with 1 to 100 tokens."""
    prompts = [random_ids(1 + i * 37 % 100, seed=i) for i in range(n_companions)]
    return [*prompts[: n_companions // 2], random_ids(45), *prompts[n_companions // 2 :]]


def load(path, **options) -> jiffy.Model:
    return jiffy.load(path, **{"context": 512, "progress": False, **options})


def write_tensors(folder, weights: dict[str, np.ndarray]) -> None:
    raw = {tiny.hf_name(name): ("F32", list(value.shape), value.tobytes()) for name, value in weights.items()}
    tiny.write_safetensors(folder / "model.safetensors", raw)


@pytest.fixture(scope="module")
def odd_llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    tiny.write_hf_llama(folder, **ODD)
    return folder


@pytest.fixture(scope="module")
def chaotic_llama(tmp_path_factory):
    """Its logits are all but equal: the rounding of float32 sums orders them, and one bit of a sum another way."""
    folder = tmp_path_factory.mktemp("chaotic")
    write_tensors(folder, chaotic_weights(folder))
    return folder


def chaotic_weights(folder) -> dict[str, np.ndarray]:
    weights = tiny.write_hf_llama(folder, **ODD)
    head = weights["lm_head.weight"]
    weights["lm_head.weight"] = (head[:1] + 1e-7 * head).astype(np.float32)
    return weights


@pytest.mark.parametrize("weights", FORMATS)
def test_logits_of_quantised_weights(odd_llama, weights):
    ids = random_ids(80)
    expected = load(odd_llama, weights=weights, isa="scalar", n_threads=1).logits(ids)
    for isa, n_threads, chunk in product(ISAS, THREADS, CHUNKS):
        model = load(odd_llama, weights=weights, isa=isa, n_threads=n_threads, prefill_chunk=chunk)
        assert_same(model.logits(ids), expected, f"{isa}, {n_threads} threads, chunks of {chunk}")


@pytest.mark.parametrize("kv_dtype", ("bf16", "int8"))
def test_logits_of_other_keys_and_values(odd_llama, kv_dtype):
    """More than a segment of attention. bf16 is widened where it is read: its bits hold over instruction sets, too."""
    ids, options = random_ids(600), {"weights": "i4", "kv_dtype": kv_dtype, "context": 640}
    expected = load(odd_llama, isa="scalar", n_threads=1, **options).logits(ids)
    for isa, (n_threads, chunk) in product(ISAS, zip(THREADS, reversed(CHUNKS), strict=True)):
        model = load(odd_llama, isa=isa, n_threads=n_threads, prefill_chunk=chunk, **options)
        assert_same(model.logits(ids), expected, f"{isa}, {n_threads} threads, chunks of {chunk}")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["f32", "bf16"])
def test_logits_of_float_weights(odd_llama, weights, isa):
    ids = random_ids(80)
    expected = load(odd_llama, weights=weights, isa=isa, n_threads=1).logits(ids)
    for n_threads, chunk in product(THREADS, CHUNKS):
        model = load(odd_llama, weights=weights, isa=isa, n_threads=n_threads, prefill_chunk=chunk)
        assert_same(model.logits(ids), expected, f"{n_threads} threads, chunks of {chunk}")


def test_logits_of_smollm2(smollm2_path, botchan_text):
    """Fewer combinations: every thread count and every chunk with every instruction set; scalar is slow."""
    first = load(smollm2_path, n_threads=1, isa=ISAS[-1])
    ids = first.tokenizer.encode(botchan_text[:2000])[:80]
    expected = first.logits(ids)
    for isa in ISAS:
        n = 24 if isa == "scalar" else len(ids)
        for n_threads, chunk in ((1, 7), (2, 1), (3, 64), (5, 512)):
            model = load(smollm2_path, isa=isa, n_threads=n_threads, prefill_chunk=chunk)
            assert_same(model.logits(ids[:n]), expected[:n], f"{isa}, {n_threads} threads, chunks of {chunk}")


@pytest.mark.parametrize("weights", ["f32", "i4"])
def test_one_bit_changes_the_chaotic_tokens(chaotic_llama, tmp_path, weights):
    """So the tests below can fail: the smallest change of one weight of the last norm is seen, more often than not."""
    asked = {"token_ids": random_ids(45), "max_tokens": 40, "ignore_eos": True}
    tokens = load(chaotic_llama, weights=weights, head="f32").generate(**asked).token_ids
    assert len(set(tokens)) > 20, f"the tokens hardly change: {tokens}"
    n_seen = 0
    for at in range(8):
        changed = chaotic_weights(tmp_path)
        norm = changed["norm.weight"]
        norm[at * 10] = np.nextafter(norm[at * 10], np.float32(2))
        write_tensors(tmp_path, changed)
        n_seen += load(tmp_path, weights=weights, head="f32").generate(**asked).token_ids != tokens
    assert n_seen >= 4, f"{n_seen} of 8"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weights", ["f32", "bf16", "i4", "i8", "i4g128a"])
def test_companions(chaotic_llama, weights, isa):
    """The same tokens alone and in company, and those that `logits` finds likeliest: decoding has prefill's bits."""
    options = {"weights": weights, "head": "f32", "isa": isa}
    prompt, asked = random_ids(45), {"max_tokens": 40, "ignore_eos": True}
    model = load(chaotic_llama, **options)
    alone = model.generate(token_ids=prompt, **asked).token_ids
    likeliest = model.logits(prompt + alone).argmax(axis=1)
    assert alone == likeliest[len(prompt) - 1 : -1].tolist()
    for n_companions, chunk in ((7, 64), (33, 7), (33, 512)):
        prompts = prompts_beside(n_companions)
        together = load(chaotic_llama, **options, prefill_chunk=chunk).generate(token_ids=prompts, **asked)
        found = together[prompts.index(prompt)].token_ids
        assert found == alone, f"{n_companions} companions, chunks of {chunk}"


@pytest.mark.parametrize("weights", ["f32", "i4", "i8g32"])
def test_sampled_companions(odd_llama, weights):
    """A seed gives its tokens in any company; every one of the companions is as it is alone, too."""
    model = load(odd_llama, weights=weights)
    asked = {"max_tokens": 100, "ignore_eos": True, "temperature": 1.0, "seed": 11}
    prompts = prompts_beside(33)
    together = model.generate(token_ids=prompts, **asked)
    for i in (0, 5, prompts.index(random_ids(45)), 33):
        assert together[i].token_ids == model.generate(token_ids=prompts[i], **asked).token_ids, f"prompt {i}"


def test_smollm2_companions(smollm2_path, botchan_text):
    model = load(smollm2_path)
    words = botchan_text[:4000].split()
    prompts = [" ".join(words[i * 9 : i * 12 + 3]) for i in range(34)]
    asked = {"max_tokens": 24, "ignore_eos": True, "temperature": 1.0, "seed": 3}
    alone = model.generate(prompts[4], **asked).token_ids
    assert model.generate(prompts[:8], **asked)[4].token_ids == alone
    assert model.generate(prompts, **asked)[4].token_ids == alone


def test_waiting_for_a_place(chaotic_llama):
    """Nine requests share two places."""
    options = {"weights": "i4", "head": "f32"}
    prompts = [random_ids(3 + 11 * i) for i in range(9)]
    asked = {"max_tokens": 30, "ignore_eos": True}
    together = load(chaotic_llama, **options, max_batch=2, prefill_chunk=16).generate(token_ids=prompts, **asked)
    model = load(chaotic_llama, **options)
    for i, prompt in enumerate(prompts):
        assert together[i].token_ids == model.generate(token_ids=prompt, **asked).token_ids, f"prompt {i}"


@pytest.mark.parametrize("weights", ["f32", "i4"])
def test_preemption(chaotic_llama, weights):
    """Eight sequences outgrow the cache (400 + 8 * 256 positions); those that lose their blocks compute them again."""
    model = load(chaotic_llama, weights=weights, head="f32", context=400, max_batch=8)
    prompts = [random_ids(20 + i) for i in range(8)]
    tokens, n_stalls = run(model._engine, prompts, max_tokens=400)
    assert n_stalls > 0, "nothing was preempted"
    assert model._engine.n_free_blocks == model._engine.n_blocks
    for i, prompt in enumerate(prompts):
        alone = model.generate(token_ids=prompt, max_tokens=400, ignore_eos=True)
        assert tokens[i] == alone.token_ids, f"prompt {i}"


def run(engine, prompts: list[list[int]], max_tokens: int) -> tuple[list[list[int]], int]:
    """Steps until all is done. Returns the tokens, and how often a sequence that had begun got none in a step."""
    asked = {"max_tokens": max_tokens, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0}
    ids = [engine.add(prompt, **asked, ignore_eos=True, stop_ids=[])[0] for prompt in prompts]
    tokens, begun, n_stalls = {id: [] for id in ids}, set(), 0
    while not engine.idle():
        events = engine.step()
        n_stalls += len(begun - {event.request for event in events})
        for event in events:
            assert event.error is None, event.error
            tokens[event.request].append(event.token)
        begun = (begun | {e.request for e in events}) - {e.request for e in events if e.finished}
    return list(tokens.values()), n_stalls


GREEDY = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0, "ignore_eos": True, "stop_ids": []}


def splitmix64(x: int) -> int:
    """Steele, Lea and Flood 2014."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def seed_of(seed: int, completion: int) -> int:
    return splitmix64((splitmix64(seed) + completion) % 2**64) if completion else seed


def complete(model: jiffy.Model, prompt: list[int], cancelled: tuple[int, ...] = (), **asked) -> list[list[int]]:
    """The tokens of n completions; `cancelled` are ended one after the other, two steps apart."""
    ids = model._engine.add(prompt, **{**GREEDY, **asked})
    tokens: dict[int, list[int]] = {id: [] for id in ids}
    to_cancel = [ids[i] for i in cancelled]
    for step in range(10**6):
        if model._engine.idle():
            break
        if step % 2 and to_cancel:
            model._engine.cancel(to_cancel.pop())
        for event in model._engine.step():
            assert event.error is None, event.error
            tokens[event.request].append(event.token)
    assert model._engine.n_free_blocks == model._engine.n_blocks
    return list(tokens.values())


@pytest.mark.parametrize("weights", ["f32", "i4"])
def test_prefix_cache(chaotic_llama, weights):
    """Warm, cold and without: the same tokens, of prompts that begin alike."""
    options = {"weights": weights, "head": "f32"}
    text = random_ids(200)
    prompts = [text[:n] for n in (70, 200, 64, 33, 70)] + [text[:50] + random_ids(60, seed=1)]
    off = load(chaotic_llama, **options, prefix_cache=False)
    expected = [off.generate(token_ids=p, max_tokens=40, ignore_eos=True).token_ids for p in prompts]
    assert off._engine.n_cached_tokens == 0
    for chunk in (7, 512):
        warm = load(chaotic_llama, **options, prefill_chunk=chunk)
        for i in [0, 1, 2, 3, 4, 5, 1, 0]:
            found = warm.generate(token_ids=prompts[i], max_tokens=40, ignore_eos=True).token_ids
            assert found == expected[i], f"prompt {i}, chunks of {chunk}"
        assert warm._engine.n_cached_tokens >= 64 + 32 + 32 + 64 + 32 + 192 + 64
        together = warm.generate(token_ids=prompts, max_tokens=40, ignore_eos=True)
        assert [completion.token_ids for completion in together] == expected


@pytest.mark.parametrize("weights", ["f32", "i4"])
@pytest.mark.parametrize("length", [1, 45, 64])
def test_completions(chaotic_llama, weights, length):
    """n completions are n single requests with their seeds; greedy ones are one and the same."""
    options = {"weights": weights, "head": "f32"}
    model, off = load(chaotic_llama, **options), load(chaotic_llama, **options, prefix_cache=False)
    prompt = random_ids(length)
    greedy = complete(off, prompt, max_tokens=40)[0]
    assert complete(model, prompt, n=4, max_tokens=40) == [greedy] * 4
    asked = {"temperature": 1.0, "max_tokens": 40}
    single = [complete(off, prompt, **asked, seed=seed_of(9, i))[0] for i in range(5)]
    assert len({tuple(tokens) for tokens in single}) == 5
    assert complete(model, prompt, n=5, **asked, seed=9) == single
    small = load(chaotic_llama, **options, max_batch=2)
    assert complete(small, prompt, n=5, **asked, seed=9) == single
    for cancelled in ((0,), (2, 0), (4, 3, 1)):
        found = complete(model, prompt, cancelled, n=5, **asked, seed=9)
        for i in set(range(5)) - set(cancelled):
            assert found[i] == single[i], f"completion {i} without {cancelled}"


def test_eight_threads(chaotic_llama):
    """Each asks for prompts that begin alike, streams some and gives up some; what is finished is as it is alone."""
    options = {"weights": "i4", "head": "f32", "max_batch": 5, "context": 400}
    text = random_ids(150)
    prompts = [text[: 20 + 13 * i] for i in range(8)]
    asked = {"temperature": 1.0, "max_tokens": 30, "ignore_eos": True}
    off = load(chaotic_llama, **options, prefix_cache=False)
    expected = [off.generate(token_ids=p, **asked, seed=i).token_ids for i, p in enumerate(prompts)]
    model = load(chaotic_llama, **options)

    def work(number: int) -> list[bool]:
        same = []
        for turn in range(6):
            i = (number + turn) % len(prompts)
            if (number + turn) % 4 == 3:
                with model.stream(token_ids=prompts[i], **asked, seed=i) as stream:
                    next(stream, None)
            else:
                same.append(model.generate(token_ids=prompts[i], **asked, seed=i).token_ids == expected[i])
        return same

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(all(same) and len(same) >= 4 for same in results), results
    assert model._engine.n_cached_tokens > 0
    assert model._engine.idle() and model._engine.n_free_blocks == model._engine.n_blocks


@pytest.mark.parametrize("weights", ["i4", "i8g32"])
def test_scores_and_log_probabilities(odd_llama, weights):
    """The same on every instruction set, with any threads and chunks, over a cache that knows the prompt or not."""
    ids = random_ids(80)
    first = load(odd_llama, weights=weights, isa="scalar", n_threads=1)
    expected = first._engine.score(ids)
    assert expected.shape == (79,) and expected.dtype == np.float32
    seen = log_probabilities(first, ids)
    for isa, chunk in product(ISAS, (7, 512)):
        model = load(odd_llama, weights=weights, isa=isa, n_threads=2, prefill_chunk=chunk)
        assert_same(model._engine.score(ids), expected, f"{isa}, chunks of {chunk}")
        assert log_probabilities(model, ids) == seen
        assert log_probabilities(model, ids) == seen, "the prompt is known now"
        assert_same(model._engine.score(ids), expected, "the prompt is known now")


def log_probabilities(model: jiffy.Model, prompt: list[int]) -> list[tuple]:
    penalties = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    model._engine.add(prompt, **{**GREEDY, **penalties}, max_tokens=20, logprobs=5)
    events = []
    while not model._engine.idle():
        events += [(e.token, e.logprob, e.top_logprobs) for e in model._engine.step()]
    return events
