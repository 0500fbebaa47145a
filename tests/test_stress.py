"""A thousand requests of all kinds from several threads, and nothing of them is left."""

from __future__ import annotations

import random
import threading

import pytest

import jiffy
from tiny import CONTEXT

N_THREADS = 4
# Three trial runs grew by 0.1 to 0.7 MB, malloc's own drift; with every request kept alive they grew by 9.6 MB.
MAX_GROWTH = 4 << 20


def anonymous_memory() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


def random_request(rng: random.Random) -> dict[str, object]:
    n = rng.choice([1, 2, 130, rng.randrange(1, 250), CONTEXT + 5])
    shared = [7, 8, 9] * 60  # prompts that begin alike share blocks
    return {
        "token_ids": (shared[: rng.choice([0, 40, 100])] + [rng.randrange(512) for _ in range(n)])[:n],
        "max_tokens": rng.choice([1, 3, rng.randrange(1, 50)]),
        "temperature": rng.choice([0, 3.0]),
        "top_k": rng.choice([0, 20]),
        "seed": rng.randrange(2**64),
        "repetition_penalty": rng.choice([1.0, 1.3]),
        "logprobs": rng.choice([None, None, 0, 5]),
        "stop": rng.choice([(), "e", ("aa", "z")]),
        "overflow": rng.choice(["error", "truncate"]),
    }


def one_request(model: jiffy.Model, rng: random.Random) -> str:
    """Runs to its end, is closed on the way, or is refused; says which."""
    asked = random_request(rng)
    if len(asked["token_ids"]) > CONTEXT and asked["overflow"] == "error":
        with pytest.raises(jiffy.ContextOverflow):
            model.generate(**asked)
        return "refused"
    if rng.random() < 0.5:
        n = rng.choice([1, 2, 5])
        answers = model.generate(**asked, n=n)
        assert n == 1 or len(answers) == n
        return "done"
    stream = model.stream(**asked)
    for _ in range(rng.randrange(8)):
        next(stream, None)
    if rng.random() < 0.8:
        stream.close()
        return stream.result().finish_reason
    return "forgotten"


def run(model: jiffy.Model, n_each: int, seed: int) -> set[str]:
    """n_each requests from each of N_THREADS threads; what became of them."""
    ends: list[str] = []

    def ask(thread: int) -> None:
        rng = random.Random(f"{seed} {thread}")
        ends.extend(one_request(model, rng) for _ in range(n_each))

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
        assert not thread.is_alive()
    assert len(ends) == N_THREADS * n_each, "a thread ended with an error"
    return set(ends)


def test_a_thousand_requests(random_folder):
    model = jiffy.load(random_folder, context=CONTEXT, n_threads=2, max_batch=8, prefill_chunk=64)
    reference = {"token_ids": [5, 6, 7], "max_tokens": 30, "temperature": 3.0, "seed": 11, "logprobs": 2, "n": 3}
    before = [(answer.token_ids, answer.logprobs) for answer in model.generate(**reference)]
    run(model, 60, seed=1)
    warm = anonymous_memory()
    ends = run(model, 250, seed=2)
    growth = anonymous_memory() - warm
    assert ends >= {"done", "refused", "forgotten", "cancelled", "stop", "length"}
    assert [(answer.token_ids, answer.logprobs) for answer in model.generate(**reference)] == before
    assert model._engine.n_free_blocks == model._engine.n_blocks
    assert model._engine.idle() and not model._running._events
    assert growth <= MAX_GROWTH, f"{growth / 1e6:.1f} MB more than after the warm-up"
