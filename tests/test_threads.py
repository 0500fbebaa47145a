"""Several threads and Ctrl-C: one running batch, of which nobody loses anything."""

import os
import signal
import threading
import time

import pytest

import jiffy

pytestmark = pytest.mark.usefixtures("blocks_come_back")


@pytest.mark.parametrize("delay", [0.001, 0.01, 0.05, 0.1])
def test_ctrl_c_leaves_the_model_usable(random_model, delay):
    before = random_model.generate("hello", max_tokens=20).token_ids
    free = random_model._engine.n_free_blocks
    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        while True:
            random_model.generate(["hello " * 40] * 20, max_tokens=300, ignore_eos=True, n=2)
    timer.join()
    assert random_model._engine.n_free_blocks == free
    assert random_model.generate("hello", max_tokens=20).token_ids == before


def test_ctrl_c_takes_no_token_from_other_threads(random_model):
    """The main thread is stopped again and again, also while it holds tokens that it has computed for the others."""
    fields = {"max_tokens": 200, "temperature": 1.0, "ignore_eos": True}
    alone = [random_model.generate("hello", seed=seed, **fields).token_ids for seed in range(3)]
    done, wrong, n_answers = threading.Event(), [], [0, 0, 0]

    def ask(seed: int) -> None:
        while not done.is_set():
            answer = random_model.generate("hello", seed=seed, **fields).token_ids
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
                random_model.generate("hello there", max_tokens=200, ignore_eos=True)
        timer.join()
    done.set()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert not wrong and all(n_answers)


def test_threads_get_the_answers_of_one(random_model):
    prompts = [f"{'hello ' * i}number {i}" for i in range(8)]
    fields = [{"max_tokens": 40, "temperature": 0.8 * (i % 2), "seed": i, "ignore_eos": True} for i in range(8)]
    alone = [random_model.generate(prompt, **f).token_ids for prompt, f in zip(prompts, fields, strict=True)]
    together: dict[int, list[list[int]]] = {i: [] for i in range(8)}

    def ask(i: int) -> None:
        for _ in range(20):
            together[i].append(random_model.generate(prompts[i], **fields[i]).token_ids)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert together == {i: [alone[i]] * 20 for i in range(8)}


def test_a_busy_model_lets_others_in(random_model):
    """A thread that steps without a pause must not keep another one waiting until it is done."""
    done = threading.Event()

    def keep_busy() -> None:
        while not done.is_set():
            random_model.generate("hello", max_tokens=400, ignore_eos=True)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    begin = time.perf_counter()
    for _ in range(20):
        random_model.generate("hello", max_tokens=3)
    seconds = time.perf_counter() - begin
    done.set()
    busy.join(timeout=60)
    assert seconds < 5


class Witness:
    """An engine that remembers how many requests each of its steps gave a token."""

    def __init__(self, engine) -> None:
        self._engine, self.n_tokens = engine, []

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def step(self) -> list:
        events = self._engine.step()
        self.n_tokens.append(len(events))
        return events


def test_threads_join_one_batch(random_model, monkeypatch):
    """Threads that ask for n completions with log probabilities, while others open streams and close them half-way:
    all get what they get alone, and steps serve several at once."""
    asked = [
        {"prompt": "hello " * i, "n": 3, "logprobs": 2, "max_tokens": 40, "temperature": 3.0, "seed": i, "stop": "q"}
        for i in range(1, 5)
    ]
    alone = [_told(random_model.generate(**a)) for a in asked]
    witness = Witness(random_model._engine)
    monkeypatch.setattr(random_model._running, "_engine", witness)
    together: dict[int, list] = {i: [] for i in range(4)}
    start = threading.Barrier(6)

    def ask(i: int) -> None:
        start.wait()
        for _ in range(5):
            together[i].append(_told(random_model.generate(**asked[i])))

    def open_and_close(seed: int) -> None:
        start.wait()
        for n in range(20):
            with random_model.stream("hello there", max_tokens=100, temperature=3.0, seed=seed, logprobs=1) as stream:
                for _ in range(n % 7):
                    next(stream, None)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    threads += [threading.Thread(target=open_and_close, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert together == {i: [alone[i]] * 5 for i in range(4)}
    assert max(witness.n_tokens) > 3, "no step served more than one thread"


def _told(completions: list[jiffy.Completion]) -> list[tuple]:
    """All but the times."""
    return [(c.text, c.token_ids, c.finish_reason, c.logprobs) for c in completions]
