"""What a model says, piece by piece and all at once, alone and among others."""

import gc
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

import jiffy
import parrot
import tiny

TEXT = "abé😀cd€ xyz."  # two, three and four bytes in a character
CONTEXT = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights: whatever such a model says is nonsense, and depends on all that came before."""
    made = tmp_path_factory.mktemp("random")
    tiny.write_hf_llama(made, vocab_size=512, seed=3)
    return made


@pytest.fixture(scope="module")
def model(folder):
    return jiffy.load(folder, context=CONTEXT, n_threads=2)


@pytest.fixture(scope="module")
def quick_model(folder):
    """The same without threads to wake: a single token comes soonest."""
    return jiffy.load(folder, context=CONTEXT, n_threads=1)


@pytest.fixture(scope="module")
def parrot_model(tmp_path_factory):
    """Says TEXT again and again."""
    folder = tmp_path_factory.mktemp("parrot")
    parrot.write_parrot(folder, TEXT)
    return jiffy.load(folder, context=CONTEXT, n_threads=1)


@pytest.fixture(autouse=True)
def blocks_come_back(request):
    """No test leaves a request behind: all blocks are free again."""
    models = [request.getfixturevalue(name) for name in ("model", "parrot_model") if name in request.fixturenames]
    free = [model._engine.n_free_blocks for model in models]
    yield
    assert [model._engine.n_free_blocks for model in models] == free
    assert all(model._engine.idle() and not model._running._events for model in models)


def _after(start: str, n_chars: int) -> str:
    """What the parrot says behind `start`."""
    return (TEXT * 100).split(start, 1)[1][:n_chars]


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


def test_token_ids_are_taken_as_they_are(model):
    ids = model.tokenizer.encode("hello there")
    long, short = (model.generate(token_ids=i, max_tokens=9).token_ids for i in (ids, ids[:3]))
    assert long == model.generate("hello there", max_tokens=9).token_ids
    assert [c.token_ids for c in model.generate(token_ids=[ids, ids[:3]], max_tokens=9)] == [long, short]


def test_greedy_follows_the_logits(model):
    ids = model.tokenizer.encode("hello there")
    answer = model.generate(token_ids=ids, max_tokens=12, ignore_eos=True).token_ids
    logits = model.logits(ids + answer)
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
    whole = _after("a", 60)
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


def test_streams_give_whole_characters(parrot_model):
    n_bytes = 2 * len(TEXT.encode())
    pieces = list(parrot_model.stream("a", max_tokens=n_bytes))
    assert pieces == list(_after("a", 2 * len(TEXT)))
    assert "".join(pieces) == parrot_model.generate("a", max_tokens=n_bytes).text


def test_half_a_character_at_the_end(parrot_model):
    pieces = list(parrot_model.stream("b", max_tokens=4))
    assert pieces == ["é", "\ufffd"]  # two bytes of four
    assert parrot_model.generate("b", max_tokens=4).text == "é\ufffd"


@pytest.mark.parametrize("seed", range(5))
def test_streams_of_noise(model, seed):
    """Random tokens: bytes that are no UTF-8, merges, special tokens."""
    fields = {"max_tokens": 200, "temperature": 3.0, "seed": seed, "ignore_eos": True}
    answer = model.generate("hello", **fields)
    assert "".join(model.stream("hello", **fields)) == answer.text == model.tokenizer.decode(answer.token_ids)


def test_seeds(model):
    def answers(seed: int) -> list[int]:
        return model.generate("hello", max_tokens=32, temperature=1.0, seed=seed, ignore_eos=True).token_ids

    assert answers(1) == answers(1)
    assert len({tuple(answers(seed)) for seed in (*range(20), 2**32, 2**63, 2**64 - 1)}) == 23


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-5}], ids=repr)
def test_what_equals_greedy(model, fields):
    greedy = model.generate("hello", max_tokens=32, ignore_eos=True).token_ids
    for seed in range(3):
        fields = {"temperature": 2.0, **fields, "seed": seed}
        assert model.generate("hello", max_tokens=32, ignore_eos=True, **fields).token_ids == greedy


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


def _leave(stream) -> None:
    with stream:
        next(stream)


def _close(stream) -> None:
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []


def _leave_by_error(stream) -> None:
    with pytest.raises(KeyError), stream:
        raise KeyError


def _forget(stream) -> None:
    next(stream)


def _forget_in_a_cycle(stream) -> None:
    cycle = [stream]
    cycle.append(cycle)
    del cycle, stream
    gc.collect()


ENDS = [_leave, _close, _leave_by_error, _forget, _forget_in_a_cycle, lambda stream: None, lambda stream: list(stream)]


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_that_ends_frees_its_blocks(model, end):
    free = model._engine.n_free_blocks
    end(model.stream("hello" * 50, max_tokens=100))
    model.generate("a", max_tokens=1)  # streams that were forgotten go with the next step
    assert model._engine.n_free_blocks == free


def test_the_result_of_a_stream_that_was_closed(parrot_model):
    stream = parrot_model.stream("a", max_tokens=10)
    assert next(stream) == "b"
    assert parrot_model._engine.n_free_blocks < parrot_model._engine.n_blocks
    stream.close()
    assert stream.result().text == "b" and stream.result().n_tokens == 1


def test_streams_side_by_side(parrot_model):
    streams = [parrot_model.stream(start, max_tokens=30) for start in "abcd"]
    texts = ["".join(pieces) for pieces in zip(*streams, strict=False)]
    assert texts[0] == "bé" + "d€"
    for stream in streams:
        stream.close()


def test_a_request_that_fails_to_start_stops_the_others(model):
    free = model._engine.n_free_blocks
    with pytest.raises(jiffy.ContextOverflow):
        model.generate(token_ids=[[1, 2], [3] * (CONTEXT + 1)])
    assert model._engine.n_free_blocks == free


@pytest.mark.parametrize("delay", [0.001, 0.01, 0.05, 0.1])
def test_ctrl_c_leaves_the_model_usable(model, delay):
    before = model.generate("hello", max_tokens=20).token_ids
    free = model._engine.n_free_blocks
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        while True:
            model.generate(["hello " * 40] * 40, max_tokens=300, ignore_eos=True)
    timer.join()
    assert model._engine.n_free_blocks == free
    assert model.generate("hello", max_tokens=20).token_ids == before


def test_ctrl_c_takes_no_token_from_other_threads(model):
    """The main thread is stopped again and again, also while it holds tokens that it has computed for the others."""
    fields = {"max_tokens": 200, "temperature": 1.0, "ignore_eos": True}
    alone = [model.generate("hello", seed=seed, **fields).token_ids for seed in range(3)]
    done, wrong, n_answers = threading.Event(), [], [0, 0, 0]

    def ask(seed: int) -> None:
        while not done.is_set():
            answer = model.generate("hello", seed=seed, **fields).token_ids
            n_answers[seed] += 1
            if answer != alone[seed]:
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for i in range(50):
        timer = threading.Timer(0.01 + i / 2000, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            while True:
                model.generate("hello there", max_tokens=200, ignore_eos=True)
        timer.join()
    done.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not wrong and all(n_answers)


def test_threads_get_the_answers_of_one(model):
    prompts = [f"{'hello ' * i}number {i}" for i in range(8)]
    fields = [{"max_tokens": 40, "temperature": 0.8 * (i % 2), "seed": i, "ignore_eos": True} for i in range(8)]
    alone = [model.generate(prompt, **f).token_ids for prompt, f in zip(prompts, fields, strict=True)]
    together: dict[int, list[list[int]]] = {i: [] for i in range(8)}

    def ask(i: int) -> None:
        for _ in range(20):
            together[i].append(model.generate(prompts[i], **fields[i]).token_ids)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert together == {i: [alone[i]] * 20 for i in range(8)}


def test_a_busy_model_lets_others_in(model):
    """A thread that steps without a pause must not keep another one waiting until it is done."""
    done = threading.Event()

    def keep_busy() -> None:
        while not done.is_set():
            model.generate("hello", max_tokens=400, ignore_eos=True)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    begin = time.perf_counter()
    for _ in range(20):
        model.generate("hello", max_tokens=3)
    seconds = time.perf_counter() - begin
    done.set()
    busy.join(timeout=60)
    assert seconds < 5


def test_many_random_requests_and_cancels(model):
    """200 requests, of which most are cancelled at some point: before they begin, in the middle, after the end."""
    rng = random.Random(7)
    free = model._engine.n_free_blocks
    running: list[jiffy.llm.Stream] = []
    for n in range(200):
        ids = [rng.randrange(512) for _ in range(rng.randrange(1, 200))]
        fields = {"max_tokens": rng.randrange(1, 80), "temperature": rng.choice([0, 1.0]), "seed": n}
        running.append(model.stream(token_ids=ids, **fields))
        for stream in rng.sample(running, min(len(running), 3)):
            next(stream, None)
        if rng.random() < 0.7:
            running.pop(rng.randrange(len(running))).close()
    for stream in running:
        stream.close()
    assert model._engine.n_free_blocks == free


def test_parse_special(model):
    text = "<|eos|>a"
    plain, special = model.tokenizer.encode(text), model.tokenizer.encode(text, parse_special=True)
    assert tiny.EOS not in plain and special[0] == tiny.EOS
    for stream, ids in ((False, plain), (True, special)):
        expected = model.generate(token_ids=ids, max_tokens=5).token_ids
        assert model.generate(text, max_tokens=5, parse_special=stream).token_ids == expected
        with model.stream(text, max_tokens=5, parse_special=stream) as running:
            list(running)
        assert running.result().token_ids == expected


def test_params_and_fields(parrot_model):
    params = jiffy.SamplingParams(max_tokens=4, stop="zzz")
    assert params.stop == ("zzz",)
    assert parrot_model.generate("a", params=params).n_tokens == 4
    assert parrot_model.generate("a", params=params, max_tokens=2).n_tokens == 2
    assert params.max_tokens == 4


def test_info(model):
    info = model.info()
    assert info["architecture"] == "llama" and info["layers"] == 2 and info["vocab_size"] == 512
    assert (info["dim"], info["heads"], info["kv_heads"]) == (48, 3, 1)
    assert info["formats"] == {"f32": info["parameters"]} and info["packed_bytes"] >= 4 * info["parameters"]
    assert info["context"] == CONTEXT and info["threads"] == 2 and info["isa"] in jiffy.isas()
    assert info["kv_bytes"] > 0 and info["kv_dtype"] == "f32"
