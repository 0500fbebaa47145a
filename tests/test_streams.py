"""Answers piece by piece, and what an early end leaves behind."""

import gc
import threading
import time

import pytest

import jiffy
from parrot import TEXT, after

pytestmark = pytest.mark.usefixtures("blocks_come_back")


def test_streams_give_whole_characters(parrot_model):
    n_bytes = 2 * len(TEXT.encode())
    pieces = list(parrot_model.stream("a", max_tokens=n_bytes))
    assert pieces == list(after("a", 2 * len(TEXT)))
    assert "".join(pieces) == parrot_model.generate("a", max_tokens=n_bytes).text


def test_half_a_character_at_the_end(parrot_model):
    pieces = list(parrot_model.stream("b", max_tokens=4))
    assert pieces == ["é", "\ufffd"]  # two bytes of four
    assert parrot_model.generate("b", max_tokens=4).text == "é\ufffd"


@pytest.mark.parametrize("seed", range(5))
def test_streams_of_noise(random_model, seed):
    """Random tokens: bytes that are no UTF-8, merges, special tokens."""
    fields = {"max_tokens": 200, "temperature": 3.0, "seed": seed, "ignore_eos": True}
    answer = random_model.generate("hello", **fields)
    assert (
        "".join(random_model.stream("hello", **fields))
        == answer.text
        == random_model.tokenizer.decode(answer.token_ids)
    )


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
def test_a_stream_that_ends_frees_its_blocks(random_model, end):
    free = random_model._engine.n_free_blocks
    end(random_model.stream("hello" * 50, max_tokens=100))
    random_model.generate("a", max_tokens=1)  # streams that were forgotten go with the next step
    assert random_model._engine.n_free_blocks == free


def test_the_result_of_a_stream_that_was_closed(parrot_model):
    stream = parrot_model.stream("a", max_tokens=10)
    assert next(stream) == "b"
    assert parrot_model._engine.n_free_blocks < parrot_model._engine.n_blocks
    stream.close()
    result = stream.result()
    assert (result.text, result.n_tokens, result.finish_reason) == ("b", 1, "cancelled")
    assert list(stream) == []


def test_streams_side_by_side(parrot_model):
    streams = [parrot_model.stream(start, max_tokens=30) for start in "abcd"]
    texts = ["".join(pieces) for pieces in zip(*streams, strict=False)]
    assert texts[0] == "bé" + "d€"
    for stream in streams:
        stream.close()


def test_another_thread_closes_a_stream(random_model):
    """The thread that waits for the next piece gets none, and no error. On a busy machine an answer may be complete by
    then, but not most of them."""
    reasons = []
    for seed in range(20):
        stream = random_model.stream("hello", max_tokens=500, temperature=1.0, seed=seed, ignore_eos=True)
        reader = threading.Thread(target=list, args=(stream,))
        reader.start()
        while stream.result().n_tokens < seed:
            time.sleep(0.001)
        stream.close()
        reader.join(timeout=60)
        assert not reader.is_alive()
        reasons.append(stream.result().finish_reason)
        assert (reasons[-1], stream.result().n_tokens < 500) in [("cancelled", True), ("length", False)]
    assert reasons.count("cancelled") >= 10, reasons


def test_a_stream_is_of_one_completion(random_model):
    with pytest.raises(jiffy.ParameterError) as caught:
        random_model.stream("hello", n=2)
    assert (caught.value.where, caught.value.found) == ("n", "2")
