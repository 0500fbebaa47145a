"""What a request can ask for: several completions, log probabilities, penalties, prompts that are too long."""

import json
import re

import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jiffy
import parrot
import tiny
from compare import assert_close
from jiffy.prompts import Fit, PromptReader, drop_turns
from jiffy.tokenizer import Tokenizer
from parrot import TEXT, after
from tiny import CONTEXT

pytestmark = pytest.mark.usefixtures("blocks_come_back")
NOISE = {"temperature": 3.0, "ignore_eos": True}  # at 1 the model mostly repeats the last token


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[..., vocab_size] in float64, straight from the definition."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# --- n


def test_n_completions_of_a_prompt(random_model):
    asked = {"max_tokens": 24, "seed": 5, **NOISE}
    answers = random_model.generate("hello", n=6, **asked)
    ids = [answer.token_ids for answer in answers]
    assert len({tuple(i) for i in ids}) == 6, "each has a seed of its own"
    assert ids[0] == random_model.generate("hello", **asked).token_ids
    assert ids == [answer.token_ids for answer in random_model.generate("hello", n=6, **asked)]
    assert ids[:2] == [answer.token_ids for answer in random_model.generate("hello", n=2, **asked)]
    assert all(answer.n_prompt_tokens == len(random_model.tokenizer.encode("hello")) for answer in answers)


def test_n_completions_of_each_prompt(random_model):
    asked = {"max_tokens": 9, "n": 3, **NOISE}
    prompts = ["hello", "a", "hello there"]
    alone = [[answer.token_ids for answer in random_model.generate(prompt, **asked)] for prompt in prompts]
    together = random_model.generate(prompts, **asked)
    assert [[answer.token_ids for answer in answers] for answers in together] == alone
    assert random_model.generate([], n=3) == []


def test_n_greedy_completions_are_one(random_model):
    """More than run at once: some wait until others are done."""
    expected = random_model.generate("hello", max_tokens=5).token_ids
    assert [answer.token_ids for answer in random_model.generate("hello", max_tokens=5, n=150)] == [expected] * 150


def test_each_completion_stops_by_itself(random_model):
    """At the first stop string in its own text, wherever the others are; those that meet none go on to the end."""
    asked = {"n": 8, "max_tokens": 60, "seed": 1, **NOISE}
    whole = random_model.generate("hello", **asked)
    stops = [re.findall("[a-z]{2}", whole[i].text)[at] for i, at in ((0, 1), (3, 4), (5, 2))]
    stopped = random_model.generate("hello", stop=tuple(stops), **asked)
    for answer, full in zip(stopped, whole, strict=True):
        found = [at for s in stops if (at := full.text.find(s)) >= 0]
        n = answer.n_tokens
        assert answer.token_ids == full.token_ids[:n]
        assert answer.text == (full.text[: min(found)] if found else full.text)
        assert answer.finish_reason == ("stop" if found else "length")
        if found:
            before = random_model.tokenizer.decode(full.token_ids[: n - 1])
            assert not any(s in before for s in stops), "it went on behind its stop string"
    assert {answer.finish_reason for answer in stopped} == {"stop", "length"}


def test_a_completion_that_stops_leaves_at_once(parrot_model, monkeypatch):
    """What has met its stop string is cancelled while what was asked for with it still runs."""
    others_run = []
    end = parrot_model._running.end

    def spy(number: int) -> None:
        end(number)
        others_run.append(not parrot_model._engine.idle())

    monkeypatch.setattr(parrot_model._running, "end", spy)
    long, short = parrot_model.generate(["d", "c"], max_tokens=60, stop="d€")
    assert (short.text, long.text) == ("", after("d", 11))
    assert others_run == [True, False]


# --- log probabilities


@pytest.mark.parametrize("k", [0, 1, 20])
def test_logprobs(random_model, k):
    """Of the model's own distribution: temperature, penalties and cuts leave no trace in them. Float32 sums over the
    vocabulary may be off by eps for each addend."""
    prompt = random_model.tokenizer.encode("hello")
    cuts = {"temperature": 3.0, "top_k": 50, "repetition_penalty": 1.5, "presence_penalty": 1.0}
    answer = random_model.generate(token_ids=prompt, max_tokens=30, logprobs=k, ignore_eos=True, **cuts)
    expected = log_softmax(random_model.logits(prompt + answer.token_ids)[len(prompt) - 1 : -1])
    share = 512 * np.finfo(np.float32).eps
    assert [entry.token_id for entry in answer.logprobs] == answer.token_ids
    got = np.array([entry.logprob for entry in answer.logprobs])
    assert_close(got[:, None], expected[np.arange(30), answer.token_ids][:, None], share)
    for entry, row in zip(answer.logprobs, expected, strict=True):
        assert [a.token_id for a in entry.top] == np.argsort(-row, kind="stable")[:k].tolist()
        if k:
            assert_close(np.array([[a.logprob for a in entry.top]]), np.sort(row)[None, : -k - 1 : -1], share)


def test_logprobs_change_nothing_else(random_model):
    asked = {"max_tokens": 20, "n": 2, **NOISE}
    plain, told = (random_model.generate("hello", logprobs=k, **asked) for k in (None, 3))
    assert [answer.logprobs for answer in plain] == [None, None]
    assert [answer.token_ids for answer in plain] == [answer.token_ids for answer in told]


def test_texts_of_logprobs(parrot_model):
    """Tokens here are bytes: half a character by itself is U+FFFD. Special tokens show what they are."""
    answer = parrot_model.generate("a", max_tokens=4, logprobs=1)
    assert answer.text == "bé\ufffd"
    assert [entry.text for entry in answer.logprobs] == ["b", "\ufffd", "\ufffd", "\ufffd"]
    assert [entry.top[0].text for entry in answer.logprobs] == ["b", "\ufffd", "\ufffd", "\ufffd"]
    assert [entry.logprob for entry in answer.logprobs] == [0.0] * 4
    (entry,) = parrot_model.generate(token_ids=[tiny.PAD], max_tokens=1, logprobs=0).logprobs
    assert (entry.token_id, entry.text, entry.top) == (tiny.EOS, "<|eos|>", ())


def test_streams_have_logprobs(random_model):
    asked = {"max_tokens": 12, "logprobs": 2, "stop": ("zz",), **NOISE}
    with random_model.stream("hello", **asked) as stream:
        for _ in stream:
            assert len(stream.result().logprobs) == stream.result().n_tokens
    assert stream.result().logprobs == random_model.generate("hello", **asked).logprobs


# --- penalties


@pytest.mark.parametrize(
    "penalties",
    [{"repetition_penalty": 1.8}, {"presence_penalty": 2}, {"frequency_penalty": 0.8},
     {"repetition_penalty": 1.2, "presence_penalty": -0.5, "frequency_penalty": 0.3}],
    ids=repr,
)  # fmt: skip
def test_penalties(random_model, penalties):
    """Greedy tokens by the formulas: of Keskar et al. 2019 for prompt and answer, and the two others for the answer."""
    prompt, n = random_model.tokenizer.encode("hello hello"), 40
    got = random_model.generate(token_ids=prompt, max_tokens=n, ignore_eos=True, **penalties).token_ids
    logits = random_model.logits(prompt + got).astype(np.float64)
    expected = []
    for i in range(n):
        x, answer = logits[len(prompt) - 1 + i], got[:i]
        for token in {*prompt, *answer}:
            r = penalties.get("repetition_penalty", 1.0)
            x[token] = x[token] / r if x[token] > 0 else x[token] * r
        for token in set(answer):
            x[token] -= penalties.get("presence_penalty", 0) + answer.count(token) * penalties.get(
                "frequency_penalty", 0
            )
        expected.append(int(x.argmax()))
    assert got == expected
    assert got != random_model.generate(token_ids=prompt, max_tokens=n, ignore_eos=True).token_ids


# --- prompts that are too long


@pytest.mark.parametrize(
    ("n_prompt", "max_tokens", "n_kept"),
    [(600, 20, 493), (600, 1, 512), (512, 1, 512), (513, 1, 512), (500, 13, 500), (500, 14, 499),
     (600, 10_000, 257), (257, 10_000, 257), (258, 10_000, 257), (7, 3, 7)],
)  # fmt: skip
def test_truncated_prompts(parrot_model, n_prompt, max_tokens, n_kept):
    """The newest tokens stay: the parrot goes on where the prompt ended, and the answer has all its room."""
    ids = (parrot_model.tokenizer.encode(TEXT) * 50)[:n_prompt]
    asked = {"token_ids": ids, "max_tokens": max_tokens}
    answer = parrot_model.generate(overflow="truncate", **asked)
    assert (answer.n_prompt_tokens, answer.n_truncated_tokens) == (n_kept, n_prompt - n_kept)
    assert answer.n_tokens == min(max_tokens, CONTEXT // 2)
    assert answer.token_ids == (parrot_model.tokenizer.encode(TEXT) * 50)[n_prompt:][: answer.n_tokens]
    with parrot_model.stream(overflow="truncate", **asked) as stream:
        list(stream)
    assert (stream.result().token_ids, stream.result().n_truncated_tokens) == (answer.token_ids, n_prompt - n_kept)
    if n_prompt > CONTEXT:
        with pytest.raises(jiffy.ContextOverflow):
            parrot_model.generate(**asked)
    else:
        assert parrot_model.generate(**asked).n_truncated_tokens == 0


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("bos")
    tiny.write_hf_llama(folder)
    names = '{"bos_token": "<|bos|>", "eos_token": "<|eos|>", "add_bos_token": true}'
    (folder / "tokenizer_config.json").write_text(names)
    return Tokenizer.from_folder(folder)


@given(
    text=st.text("abc", min_size=1, max_size=40),
    context=st.integers(1, 30),
    max_tokens=st.integers(1, 50),
    bos=st.booleans(),
)
def test_truncation_keeps_bos_and_the_newest(with_bos, text, context, max_tokens, bos):
    reader = PromptReader(with_bos, 259, context)
    ids = with_bos.encode(text, add_bos=bos)
    ((prompt,), single) = reader.read(None, ids, fit=Fit("truncate", context, max_tokens))
    kept = prompt.ids
    room = context + 1 - len(kept)
    assert single and room >= 1
    assert len(kept) + prompt.n_truncated == len(ids)
    if prompt.n_truncated:
        assert room == min(max_tokens, max(context // 2, 1)), "no more is dropped than must be"
        n_bos = int(bos and len(kept) > 1)
        assert kept[:n_bos] == ids[:n_bos] and kept[n_bos:] == ids[len(ids) - len(kept) + n_bos :]
    else:
        assert kept == ids


def test_nothing_starts_before_all_is_checked(random_model, monkeypatch):
    begun = []
    monkeypatch.setattr(random_model._running, "begin", lambda *args, **_: begun.append(args))
    bad = [
        {"token_ids": [[1, 2], [3] * (CONTEXT + 1)]},
        {"token_ids": [[1, 2], []]},
        {"token_ids": [[1, 2], [512]]},
        {"prompt": ["a", "b\ud800"]},
        {"prompt": ["a", "b"], "stop": ["a", ""]},
        {"prompt": ["a", "b"], "n": 0},
        {"prompt": ["a", "b"], "overflow": "cut"},
    ]
    for request in bad:
        with pytest.raises(jiffy.Error):
            random_model.generate(**request)
    assert not begun


# --- chats

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<|eos|>{% endfor %}xyz."
SYSTEM = {"role": "system", "content": "S" * 10}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory) -> jiffy.Model:
    """A parrot whose template ends every prompt with "xyz."."""
    folder = tmp_path_factory.mktemp("chat")
    parrot.write_parrot(folder, TEXT)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return jiffy.load(folder, context=CONTEXT, n_threads=1)


def conversation(*sizes: int) -> list[dict[str, str]]:
    """A system message, then user and assistant in turn with contents of these sizes: each a token a character, and
    two more in the template."""
    said = [{"role": ("user", "assistant")[i % 2], "content": f"{i % 10}" * size} for i, size in enumerate(sizes)]
    return [SYSTEM, *said]


def test_chat(chat_model):
    messages = conversation(3, 4, 5)
    answer = chat_model.chat(messages, max_tokens=6)
    assert answer.text == "abé\ufffd" and answer.n_prompt_tokens == 10 + 3 + 4 + 5 + 4 * 2 + 4
    rendered = jinja2.Template(TEMPLATE).render(messages=messages)
    assert answer.token_ids == chat_model.generate(rendered, max_tokens=6, parse_special=True).token_ids
    assert [a.text for a in chat_model.chat(messages, max_tokens=6, n=2)] == [answer.text] * 2
    with chat_model.chat_stream(messages, max_tokens=9, stop="é") as stream:
        assert "".join(stream) == "ab"


def test_a_long_chat_loses_whole_turns(chat_model):
    """12 tokens of the system message, 4 of the template's end, turns of 104 each, the newest message of 52; 30 for the
    answer leave 483."""
    messages = conversation(*[50] * 10, 50)
    whole = len(chat_model.tokenizer.encode(jinja2.Template(TEMPLATE).render(messages=messages), parse_special=True))
    with pytest.raises(jiffy.ContextOverflow):
        chat_model.chat(messages, max_tokens=30)
    answer = chat_model.chat(messages, max_tokens=30, overflow="truncate")
    assert answer.n_prompt_tokens == 12 + 3 * 104 + 52 + 4 + 104 * ((483 - 68) // 104 - 3)
    assert answer.n_prompt_tokens + answer.n_truncated_tokens == whole
    assert answer.token_ids == chat_model.chat([SYSTEM, *messages[-7:]], max_tokens=30).token_ids
    assert chat_model.chat(messages[-3:], overflow="truncate", max_tokens=1).n_truncated_tokens == 0


def test_the_newest_turn_is_never_cut(chat_model):
    with pytest.raises(jiffy.ContextOverflow) as caught:
        chat_model.chat(conversation(10, 10, 480), max_tokens=30, overflow="truncate")
    assert caught.value.where == "messages" and "483" in caught.value.expected
    with pytest.raises(jiffy.ContextOverflow):
        chat_model.chat([{"role": "user", "content": "a" * 600}], overflow="truncate")


@given(st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=12), st.integers(0, 13))
def test_turns_that_are_dropped(roles, room):
    """The most that fits: every smaller number of turns dropped would have left too much."""
    messages = [{"role": role, "content": str(i)} for i, role in enumerate(roles)]
    kept = drop_turns(messages, lambda rest: len(rest) <= room)
    said = [m for m in messages if m["role"] != "system"]
    kept_said = [m for m in kept if m["role"] != "system"]
    assert [m for m in kept if m["role"] == "system"] == [m for m in messages if m["role"] == "system"]
    assert kept_said == said[len(said) - len(kept_said) :]
    users = [i for i, m in enumerate(said) if m["role"] == "user"]
    begins = [0, *users[1:]]  # of turns, in what was said
    n_system = len(messages) - len(said)
    fitting = [begin for begin in begins if n_system + len(said) - begin <= room]
    assert len(said) - len(kept_said) == (fitting[0] if fitting else begins[-1])


def test_a_model_without_a_template(random_model):
    for call in (random_model.chat, random_model.chat_stream):
        with pytest.raises(jiffy.Unsupported) as caught:
            call([{"role": "user", "content": "hello"}])
        assert caught.value.where == "chat_template"


@pytest.mark.parametrize("messages", [[], None, "hello", [{}], [{"role": "user"}], [["user", "hello"]]], ids=repr)
def test_bad_chats(chat_model, messages):
    for overflow in ("error", "truncate"):
        with pytest.raises(jiffy.ParameterError):
            chat_model.chat(messages, overflow=overflow)
