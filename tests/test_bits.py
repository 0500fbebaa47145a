"""The same bits, whatever computes them: instruction set, threads, chunks of the prompt, companions in the batch.

Quantised weights keep that promise across instruction sets, float weights within one. What a batch computes is seen
only through its tokens, so `chaotic_llama` has a head in which the last bits of the hidden state choose the token.
"""

from __future__ import annotations

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
