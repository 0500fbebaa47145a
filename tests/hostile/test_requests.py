"""Hostile requests and arguments: each ends in a `jiffy.Error` that says where, what was expected and what was found;
the next good request is answered as before."""

import time

import numpy as np
import pytest

import jiffy
import parrot
import tiny

from .case import gguf_file, hf_folder

_HUGE = 10**5000  # Python refuses to print it
_NAN, _INF = float("nan"), float("inf")


def _named(value: object) -> str:
    """A test's name from a value."""
    try:
        return repr(value)[:40]
    except ValueError:
        return "huge"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return jiffy.load(gguf_file(tmp_path_factory.mktemp("good")), context=512, n_threads=2)


@pytest.fixture(scope="module")
def answer(model):
    return model.generate("hello", max_tokens=8).token_ids


@pytest.fixture(autouse=True)
def unharmed(model, answer):
    """After every test: nothing is left of the request, and the model answers as before."""
    free = model._engine.n_free_blocks
    yield
    assert model._engine.n_free_blocks == free
    assert model.generate("hello", max_tokens=8).token_ids == answer


def _refused(call, where: str, kind: type = jiffy.ParameterError) -> jiffy.Error:
    with pytest.raises(jiffy.Error) as caught:
        call()
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.where == where, repr(error)
    assert error.expected and error.found
    assert len(str(error)) < 2000
    return error


PROMPTS = {
    "empty text": ({"prompt": ""}, "prompt"),
    "empty text in a list": ({"prompt": ["a", ""]}, "prompt"),
    "no ids": ({"token_ids": []}, "prompt"),
    "no ids in a list": ({"token_ids": [[1], []]}, "prompt"),
    "neither": ({}, "prompt"),
    "both": ({"prompt": "a", "token_ids": [1]}, "prompt"),
    "number": ({"prompt": 7}, "prompt"),
    "bytes": ({"prompt": b"a"}, "prompt"),
    "numbers": ({"prompt": ["a", 7]}, "prompt"),
    "lone surrogate": ({"prompt": "a\ud800b"}, "prompt"),
    "low surrogate": ({"prompt": "\udfff"}, "prompt"),
    "surrogate in a list": ({"prompt": ["a", "\udc80"]}, "prompt"),
    "id past the end": ({"token_ids": [1, 259]}, "token_ids[1]"),
    "negative id": ({"token_ids": [-1]}, "token_ids[0]"),
    "id of 2^31": ({"token_ids": [2**31]}, "token_ids[0]"),
    "id of 2^64": ({"token_ids": [1, 2, 2**64]}, "token_ids[2]"),
    "id of 2^32 + 1": ({"token_ids": [2**32 + 1]}, "token_ids[0]"),
    "huge id": ({"token_ids": [_HUGE]}, "token_ids[0]"),
    "float id": ({"token_ids": [1.0]}, "token_ids[0]"),
    "bool id": ({"token_ids": [True]}, "token_ids[0]"),
    "text id": ({"token_ids": ["a" * 10_000]}, "token_ids[0]"),
    "no id": ({"token_ids": [None]}, "token_ids[0]"),
    "ids as text": ({"token_ids": "12"}, "token_ids"),
    "ids as a number": ({"token_ids": 5}, "token_ids"),
    "ids and lists": ({"token_ids": [1, [2]]}, "token_ids[1]"),
    "lists and ids": ({"token_ids": [[1], 2]}, "token_ids"),
}


@pytest.mark.parametrize(("prompt", "where"), PROMPTS.values(), ids=PROMPTS)
def test_prompts(model, prompt, where):
    _refused(lambda: model.generate(**prompt, max_tokens=2), where)
    if not isinstance(prompt.get("prompt", prompt.get("token_ids")), list):
        _refused(lambda: model.stream(**prompt, max_tokens=2), where)


@pytest.mark.parametrize("ids", [[], [259], [-1], [2**40], [_HUGE], [True], [1.5], "1", None, [[1]]], ids=_named)
def test_logits_of_bad_ids(model, ids):
    with pytest.raises(jiffy.ParameterError) as caught:
        model.logits(ids)
    assert caught.value.where.startswith(("token_ids", "prompt"))


SCORES = {
    "neither": ({}, "text"),
    "both": ({"text": "ab", "token_ids": [1, 2]}, "text"),
    "one token": ({"text": "a"}, "text"),
    "a list": ({"text": ["a", "b"]}, "prompt"),
    "bytes": ({"text": b"ab"}, "prompt"),
    "ids as text": ({"token_ids": "12"}, "token_ids"),
    "lists of ids": ({"token_ids": [[1, 2]]}, "token_ids[0]"),
    "id past the end": ({"token_ids": [1, 259]}, "token_ids[1]"),
    "huge id": ({"token_ids": [1, _HUGE]}, "token_ids[1]"),
    "no stride": ({"token_ids": [1, 2], "stride": 0}, "stride"),
    "stride of the context": ({"token_ids": [1, 2], "stride": 512}, "stride"),
    "huge stride": ({"token_ids": [1, 2], "stride": _HUGE}, "stride"),
    "stride as text": ({"token_ids": [1, 2], "stride": "1"}, "stride"),
    "bool stride": ({"token_ids": [1, 2], "stride": True}, "stride"),
    "add_bos as a number": ({"token_ids": [1, 2], "add_bos": 1}, "add_bos"),
    "add_bos as text": ({"text": "ab", "add_bos": "yes"}, "add_bos"),
}


@pytest.mark.parametrize(("asked", "where"), SCORES.values(), ids=SCORES)
def test_scores(model, asked, where):
    _refused(lambda: model.score(**asked), where)


FIELDS = {
    "max_tokens": [-1, 0, 2**31, 2**64, _HUGE, -_HUGE, 1.5, "2", None, True, _NAN],
    "temperature": [_NAN, _INF, -_INF, -1, -1e-9, 1e39, 10**400, _HUGE, "1", None, True, 1j],
    "top_k": [-1, 2**31, 2**64, _HUGE, 1.0, "1", None, False],
    "top_p": [0, 0.0, -0.1, 1.0000001, 2, _NAN, _INF, _HUGE, "1", None, True],
    "min_p": [-0.1, 1.0000001, _NAN, _INF, _HUGE, "0", None, True],
    "seed": [-1, 2**64, _HUGE, 1.0, "1", None, True],
    "stop": ["", ("",), ["a", ""], 7, [7], b"a", None, {"a"}, ["a" * 100_000, 7]],
    "ignore_eos": [0, 1, None, "yes"],
    "n": [0, -1, 1025, 2**64, _HUGE, 1.0, "2", None, True],
    "repetition_penalty": [0, -1, _NAN, _INF, 1e39, _HUGE, "1", None, True],
    "presence_penalty": [2.001, -3, _NAN, _INF, _HUGE, "0", None, False],
    "frequency_penalty": [-2.001, 3, _NAN, -_INF, _HUGE, "0", None, False],
    "logprobs": [-1, 21, 2**64, _HUGE, 1.0, "1", True],
    "overflow": ["", "cut", "Error", None, True, 1, ["error"]],
    "max_token": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(name, value) for name, values in FIELDS.items() for value in values], ids=_named
)
def test_sampling_fields(model, field, value):
    _refused(lambda: model.generate("hello", **{field: value}), field)
    _refused(lambda: model.stream("hello", **{field: value}), field)
    _refused(lambda: model.generate(["a", "b"], params=jiffy.SamplingParams(), **{field: value}), field)


@pytest.mark.parametrize("params", [{}, {"max_tokens": 1}, 5, "greedy", jiffy.SamplingParams], ids=_named)
def test_params_of_another_type(model, params):
    _refused(lambda: model.generate("hello", params=params), "params")


def test_the_smallest_and_the_largest_good_fields(model):
    smallest = {"max_tokens": 1, "temperature": 5e-324, "top_k": 1, "top_p": 5e-324, "min_p": 5e-324, "seed": 0}
    smallest |= {"repetition_penalty": 5e-324, "presence_penalty": -2, "frequency_penalty": -2.0, "logprobs": 0}
    largest = {"temperature": 3e38, "top_k": 2**31 - 1, "top_p": 1, "min_p": 1, "seed": 2**64 - 1}
    largest |= {"repetition_penalty": 3.4e38, "presence_penalty": 2.0, "frequency_penalty": 2, "logprobs": 20}
    assert model.generate("hello", **smallest).n_tokens == 1
    assert model.generate("hello", max_tokens=4, ignore_eos=True, **largest).n_tokens == 4
    assert len(model.generate("hello", max_tokens=2, n=1024)) == 1024
    assert model.generate("hello", max_tokens=4, temperature=3e38, ignore_eos=True).n_tokens == 4
    assert model.generate("a", max_tokens=2**31 - 1, ignore_eos=True).n_tokens == 512


def test_streams_are_of_one_prompt(model):
    _refused(lambda: model.stream(["a", "b"]), "prompt")
    _refused(lambda: model.stream(token_ids=[[1], [2]]), "prompt")


def test_context_overflow_names_both_numbers(model):
    for call in (model.generate, model.stream):
        error = _refused(lambda call=call: call(token_ids=[1] * 513), "prompt", jiffy.ContextOverflow)
        assert "512" in error.expected and "513" in error.found
    for call in (model.logits, lambda ids: model.score(token_ids=ids)):
        error = _refused(lambda call=call: call([1] * 513), "prompt", jiffy.ContextOverflow)
        assert "512" in error.expected and "513" in error.found


TEXTS = {
    "words": "hello there " * 900_000,
    "letters": "abcdefghij" * 1_000_000,
    "spaces": " " * 10_000_000,
    "Chinese": "\u4f60\u597d" * 1_700_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ten_megabytes_of_text(model, text):
    """An error either way: of the context where the text can be encoded, of the text where it can't be cut."""
    begin = time.process_time()  # of all threads: the time on the clock is also that of other processes
    with pytest.raises(jiffy.Error) as caught:
        model.generate(text)
    assert time.process_time() - begin < 20
    assert caught.value.where == "prompt"
    if " t" in text:
        assert isinstance(caught.value, jiffy.ContextOverflow)
        assert "512" in caught.value.expected and str(len(text)) in caught.value.found  # a token for each byte


@pytest.mark.parametrize("token", tiny.SPECIALS)
def test_special_token_text_is_text(model, token):
    text = f"a{token}b"
    assert tiny.SPECIALS.index(token) + tiny.BOS not in model.tokenizer.encode(text)
    prompt = model.generate(text, max_tokens=1)
    assert prompt.n_prompt_tokens == len(text)
    assert model.generate(text, max_tokens=1, parse_special=True).n_prompt_tokens == 3


LOADS = {
    "weights": ["i5", "", "I4", 4, True, ["i4"], "f32 ", "a" * 10_000, _HUGE],
    "head": ["q4_0", 8, b"i8"],
    "kv_dtype": ["f16x", None, 1],
    "isa": ["sse", "", "AVX2", 2],
    "n_threads": [0, -1, 2000, 2**31, 2**64, _HUGE, "2", 2.0, True],
    "context": [0, -1, 2049, 2**31, 2**64, _HUGE, "512", 512.0, False],
    "prefill_chunk": [0, -1, 2**40, _HUGE, "1", None, 1.0],
    "prefix_cache": [0, 1, None, "yes"],
    "progress": [0, None, "no"],
    "fuse": [1, None, "yes"],
    "max_batch": [0, -1, 2**40, _HUGE, "1", None, True],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in LOADS.items() for value in values], ids=_named
)
def test_load_arguments(tmp_path_factory, name, value):
    path = tmp_path_factory.getbasetemp() / "arguments" / "model.gguf"
    if not path.exists():
        path.parent.mkdir()
        gguf_file(path.parent)
    _refused(lambda: jiffy.load(path, **{name: value}), name)


@pytest.mark.parametrize("path", [7, b"model.gguf", ["model.gguf"], 1.5, True, object], ids=_named)
def test_paths_of_another_type(path):
    _refused(lambda: jiffy.load(path), "name_or_path")


@pytest.mark.parametrize("weights", [None, "i8", "i4"], ids=str)
@pytest.mark.parametrize(("tensor", "size"), [("norm.weight", 3e38), ("embed_tokens.weight", 1e30)])
def test_weights_that_overflow(tmp_path, tensor, size, weights):
    """Finite weights whose products are not: the request fails, and so does the next one; nothing hangs."""
    folder = hf_folder(tmp_path, tied=False)
    shape = (32,) if tensor == "norm.weight" else (259, 32)
    parrot.overwrite(folder, tensor, np.full(shape, size))
    model = jiffy.load(folder, weights=weights)
    free = model._engine.n_free_blocks
    for _ in range(2):
        for temperature in (0, 1):
            _refused(lambda t=temperature: model.generate(["a", "bc"], temperature=t), "logits", jiffy.FormatError)
        with model.stream("a") as stream:
            _refused(lambda s=stream: next(s), "logits", jiffy.FormatError)
        _refused(lambda: model.generate("a", n=3, logprobs=1), "logits", jiffy.FormatError)
        assert np.isnan(model.score("abc").perplexity)
        assert model._engine.n_free_blocks == free and model._engine.idle()


def test_one_request_of_a_batch_overflows(tmp_path):
    """Only <|pad|> has an embedding that overflows: those that run beside it answer as they do alone."""
    folder = tmp_path / "parrot"
    ids = parrot.write_parrot(folder, "abcdef")
    table = np.eye(259, 272)
    table[tiny.PAD] *= 1e30
    parrot.overwrite(folder, "embed_tokens.weight", table)
    model = jiffy.load(folder)
    good, bad = model.stream("a", max_tokens=12), model.stream(token_ids=[tiny.PAD])
    assert next(good) == "b"
    _refused(lambda: next(bad), "logits", jiffy.FormatError)
    assert "".join(good) == "cdefabcdefa"
    assert good.result().token_ids == (ids * 3)[1:13]


def test_a_tokenizer_that_knows_more_tokens_than_the_model(tmp_path):
    folder = hf_folder(tmp_path)
    tiny.tokenizer(300).save(str(folder / "tokenizer.json"))
    with pytest.raises(jiffy.Error) as caught:
        jiffy.load(folder).generate("ab")
    assert caught.value.where


def test_a_model_that_has_more_tokens_than_the_tokenizer(tmp_path):
    """Vocabularies are padded to round sizes: a model may say an id that stands for nothing."""
    folder = hf_folder(tmp_path, vocab_size=320)
    tiny.tokenizer(259).save(str(folder / "tokenizer.json"))
    parrot.overwrite(folder, "embed_tokens.weight", np.vstack([np.eye(319, 32), np.full((1, 32), 9.0)]))
    answer = jiffy.load(folder).generate(token_ids=[319], max_tokens=4)
    assert answer.token_ids == [319] * 4
    assert answer.text == ""
