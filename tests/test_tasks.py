"""The task functions: what they make of a model's numbers, of one text or many, and of bad input."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import torch
import transformers

import jiffy
import tiny_encoders as tiny
from compare import assert_same
from jiffy import tasks
from jiffy.tasks.logistic import train
from test_encoder import texts


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, tuple[jiffy.Encoder, torch.nn.Module]]:
    """By task: the encoder, and the model that transformers has of it."""
    found = {}
    for task in tiny.TASKS:
        folder = tmp_path_factory.mktemp(task or "plain")
        reference = tiny.write(folder, "bert", task, max_position_embeddings=64)
        found[task] = jiffy.load_encoder(folder, weights="f32"), reference
    return found


@pytest.fixture(scope="module")
def embedder(models) -> jiffy.Encoder:
    return models[""][0]


def pipeline(models, task: str, name: str, **options):
    encoder, reference = models[task]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(encoder.path / "tokenizer.json"), model_max_length=64, cls_token="[CLS]", sep_token="[SEP]",
        pad_token="[PAD]", mask_token="[MASK]", unk_token="[UNK]",
    )  # fmt: skip
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return transformers.pipeline(name, model=reference, tokenizer=tokenizer, **options)


def test_one_text_a_list_and_an_iterator(embedder):
    some = [text[:50] for text in texts(20)]
    expected = embedder.encode(some)
    assert_same(tasks.embed(some[0], embedder), expected[0])
    assert_same(tasks.embed(some, embedder), expected)
    assert_same(tasks.embed([], embedder), np.empty((0, 36), np.float32))
    asked = tasks.embed((text for text in some), embedder)
    assert_same(np.stack(list(islice(asked, 7))), expected[:7])
    assert_same(np.stack(list(asked)), expected[7:])
    returned = tasks.embed(["a", "", "b"], embedder, errors="return")
    assert isinstance(returned[1], jiffy.ParameterError) and returned[2].shape == (36,)
    with pytest.raises(jiffy.ParameterError):
        tasks.embed(["a", ""], embedder)


def test_similarity(embedder):
    a, b = embedder.encode(["one", "two words"], normalize=True).astype(np.float64)
    assert tasks.similarity("one", "two words", embedder) == pytest.approx(a @ b, abs=1e-5)
    assert tasks.similarity("one", "one", embedder) == pytest.approx(1, abs=1e-5)
    assert tasks.similarity(["one", "two words"], "one", embedder).shape == (2, 1)


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_a_head_for_sequences(tmp_path, models, problem):
    reference = tiny.write(tmp_path, "bert", "sequence", problem_type=problem)
    encoder = jiffy.load_encoder(tmp_path, weights="f32")
    expected = pipeline({"": (encoder, reference)}, "", "text-classification", top_k=None)(["a text", "and more"])
    for found, wanted in zip(tasks.text_classification(["a text", "and more"], encoder), expected, strict=True):
        assert list(found.scores) == [one["label"] for one in wanted]
        np.testing.assert_allclose(list(found.scores.values()), [one["score"] for one in wanted], atol=1e-5)
        assert found.label == wanted[0]["label"] and found.score == found.scores[found.label]


def test_a_head_for_tokens(models):
    encoder, _ = models["token"]
    text = "two words, and one."
    raw = pipeline(models, "token", "token-classification", ignore_labels=[])(text)
    every = tasks.token_classification(text, encoder, join=False)
    assert [(one.label, one.start, one.end) for one in every] == [(r["entity"], r["start"], r["end"]) for r in raw]
    np.testing.assert_allclose([one.score for one in every], [r["score"] for r in raw], atol=1e-5)
    grouped = pipeline(models, "token", "token-classification", ignore_labels=[], aggregation_strategy="simple")(text)
    joined = tasks.token_classification([text], encoder)[0]
    assert [(one.label, one.start, one.end) for one in joined] == [
        (g["entity_group"], g["start"], g["end"]) for g in grouped
    ]
    assert all(one.text == text[one.start : one.end] for one in joined)


def test_labels_that_begin_an_entity_anew(tmp_path):
    """B- begins one, O is none; the head is made to say so by the letters."""
    reference = tiny.write(tmp_path, "distilbert", "token", id2label={0: "O", 1: "B-name", 2: "I-name"})
    encoder = jiffy.load_encoder(tmp_path, weights="f32")
    letters = encoder.hidden_states("b i o")[1:4]
    solved = np.linalg.lstsq(letters, 20 * np.eye(3)[[1, 2, 0]], rcond=None)[0]
    with torch.no_grad():
        reference.classifier.weight.copy_(torch.from_numpy(solved.T))
        reference.classifier.bias.zero_()
    reference.save_pretrained(tmp_path)
    found = tasks.token_classification("b i o", jiffy.load_encoder(tmp_path, weights="f32"))
    assert [(one.label, one.text) for one in found] == [("name", "b i")]


def test_answers(models):
    encoder, _ = models["question"]
    question, context = "what is it", "it is a context of some words. and then more of them"
    found = tasks.question_answering(question, context, encoder)
    assert found.text == context[found.start : found.end] and 0 < found.score <= 1
    tokens = encoder.reader.read([(question, context)], 64)[0]
    scores = encoder.scores((question, context)).astype(np.float64)
    assert found.score == pytest.approx(best_span(tokens, scores), abs=1e-6)


def best_span(tokens, scores: np.ndarray, max_tokens: int = 30) -> float:
    """By trying all."""
    allowed = np.array([i == 0 or part == 1 for i, part in enumerate(tokens.parts)])
    e = np.exp(scores) * allowed[:, None]
    begin, end = (e / e.sum(axis=0)).T
    places = [i for i, part in enumerate(tokens.parts) if part == 1]
    return max(begin[i] * end[j] for i in places for j in places if 0 <= j - i < max_tokens)


def test_answers_in_long_contexts_come_from_windows(models):
    encoder, _ = models["question"]
    context = " ".join(text.strip() for text in texts(20))
    found = tasks.question_answering("what is it", context, encoder)
    assert found.text == context[found.start : found.end] and found.text
    windows = encoder.reader.windows("what is it", context, 64, 16)
    assert all(len(window.ids) <= 64 for window in windows) and len(windows) > 20
    covered = {span for window in windows for span, part in zip(window.offsets, window.parts, strict=True) if part == 1}
    assert covered == set(encoder.reader.read([context], 10**6)[0].offsets[1:-1])
    scores = [best_span(window, encoder.window_scores([window])[0].astype(np.float64)) for window in windows]
    assert found.score == pytest.approx(max(scores), abs=1e-6)


def test_lists_of_questions_and_contexts(models):
    encoder, _ = models["question"]
    alone = tasks.question_answering("what", "some words", encoder)
    found = tasks.question_answering(["what", "what", "what"], ["some words", "", "more"], encoder, errors="return")
    assert found[0] == alone and isinstance(found[1], jiffy.ParameterError) and found[2].text
    assert tasks.question_answering(["what", "what"], "some words", encoder) == [alone, alone]
    with pytest.raises(jiffy.ParameterError, match="one for each question"):
        tasks.question_answering(["a", "b"], ["c"], encoder)
    with pytest.raises(jiffy.ContextOverflow, match="question"):
        tasks.question_answering("a " * 60, "b", encoder)


def test_rerank_by_a_cross_encoder(tmp_path):
    reference = tiny.write(tmp_path, "bert", "sequence", id2label={0: "LABEL_0"})
    encoder = jiffy.load_encoder(tmp_path, weights="f32")
    documents = ["some words", "others", "a third text", "others"]
    found = tasks.rerank("a query", documents, encoder)
    scores = []
    for document in documents:
        tokens = encoder.reader.read([("a query", document)], 512)[0]
        with torch.no_grad():
            out = reference(torch.tensor([tokens.ids]), token_type_ids=torch.tensor([tokens.type_ids]))
        scores.append(float(torch.sigmoid(out.logits)[0, 0]))
    assert [one.index for one in found] == sorted(range(4), key=lambda i: (-round(scores[i], 9), i))
    np.testing.assert_allclose([one.score for one in found], [scores[one.index] for one in found], atol=1e-5)
    assert tasks.rerank("a query", documents, encoder, top=2) == found[:2]


def test_rerank_by_embeddings(embedder):
    found = tasks.rerank("one", ["two words", "one", "three"], embedder)
    assert found[0].index == 1 and found[0].score == pytest.approx(1, abs=1e-5)
    assert tasks.rerank("one", [], embedder) == []


def test_fit_finds_what_can_be_told_apart(embedder, tmp_path):
    some = ["cat " + text[:9] for text in texts(30, 1)] + ["12345 " + text[:9] for text in texts(30, 2)]
    labels = ["letters"] * 30 + ["digits"] * 30
    classifier = tasks.fit(some, labels, embedder)
    found = tasks.text_classification(some, classifier)
    assert np.mean([one.label == label for one, label in zip(found, labels, strict=True)]) > 0.9
    assert all(sum(one.scores.values()) == pytest.approx(1) for one in found)
    again = tasks.fit(some, labels, embedder)
    assert_same(again.weight, classifier.weight)
    classifier.save(tmp_path / "head.safetensors")
    loaded = tasks.Classifier.load(tmp_path / "head.safetensors", embedder)
    assert tasks.text_classification(some, loaded) == found


def test_logistic_regression_finds_the_minimum():
    """The gradient of the penalised cross entropy, by differences, is nothing."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = rng.integers(0, 3, 50)
    weight, bias = (part.astype(np.float64) for part in train(x, y, 3, 0.1))

    def loss(w, b):
        scores = x @ w.T + b
        log_sum = np.log(np.exp(scores).sum(axis=1))
        return np.mean(log_sum - scores[np.arange(50), y]) + 0.05 * (w * w).sum()

    for i in range(3):
        for j in range(4):
            step = np.zeros_like(weight)
            step[i, j] = 1e-4
            assert abs(loss(weight + step, bias) - loss(weight - step, bias)) < 2e-4 * 1e-4


def test_zero_shot_compares_with_the_names(embedder):
    found = tasks.text_classification("This text is about cats.", embedder, labels=["dogs", "cats"])
    assert found.label == "cats" and found.score > 0.5
    vectors = embedder.encode(["one text", "about dogs", "about cats"], normalize=True).astype(np.float64)
    e = np.exp(20 * vectors[1:] @ vectors[0])
    found = tasks.text_classification("one text", embedder, labels=["dogs", "cats"], template="about {}")
    assert found.scores["dogs"] == pytest.approx(e[0] / e.sum(), abs=1e-5)


BAD = {
    "labels-one": (lambda e: tasks.fit(["a", "b"], ["x", "x"], e), "labels: expected 2 to"),
    "labels-count": (lambda e: tasks.fit(["a", "b"], ["x"], e), "labels: expected 2, one for each text"),
    "labels-kind": (lambda e: tasks.fit(["a", "b"], ["x", 7], e), "labels: expected texts"),
    "fit-empty": (lambda e: tasks.fit(["a", ""], ["x", "y"], e), "text: expected at least one token"),
    "fit-none": (lambda e: tasks.fit([], [], e), "labels: expected 2 to"),
    "strength": (lambda e: tasks.fit(["a", "b"], ["x", "y"], e, strength=0), "strength: expected a number"),
    "zero-one": (lambda e: tasks.text_classification("a", e, labels=["x"]), "labels: expected 2 to"),
    "zero-twice": (lambda e: tasks.text_classification("a", e, labels=["x", "x"]), "labels: expected a list of diff"),
    "zero-text": (lambda e: tasks.text_classification("a", e, labels="xy"), "labels: expected a list of different"),
    "template": (lambda e: tasks.text_classification("a", e, labels=["x", "y"], template="z"), "template: expected"),
    "model": (lambda e: tasks.embed("a", 7), "model: expected an Encoder"),
    "no-head": (lambda e: tasks.text_classification("a"), 'model: expected a model with a head for "sequence"'),
    "no-tagger": (lambda e: tasks.token_classification("a"), 'model: expected a model with a head for "token"'),
    "top": (lambda e: tasks.rerank("a", ["b"], e, top=0), "top: expected"),
    "query": (lambda e: tasks.rerank(None, ["b"], e), "query: expected a text"),
    "errors": (lambda e: tasks.embed("a", e, errors="ignore"), "errors: expected one of raise, return"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(embedder, call, message):
    with pytest.raises(jiffy.ParameterError, match=message):
        call(embedder)


def test_heads_that_do_not_fit(models, embedder):
    with pytest.raises(jiffy.Unsupported, match='a head for "token"'):
        tasks.token_classification("a", embedder)
    with pytest.raises(jiffy.Unsupported, match="a cross-encoder with one label"):
        tasks.rerank("a", ["b"], models["sequence"][0])


def test_a_head_for_another_encoder(embedder, tmp_path):
    tiny.write(tmp_path, "distilbert", dim=24, n_heads=2)
    classifier = tasks.fit(["a", "b"], ["x", "y"], embedder)
    other = tasks.Classifier(classifier.labels, classifier.weight, classifier.bias, jiffy.load_encoder(tmp_path))
    with pytest.raises(jiffy.ParameterError, match="embeddings of 36 numbers"):
        tasks.text_classification("a", other)


@pytest.mark.parametrize("change", ["labels", "rows", "nan", "none", "json"])
def test_damaged_heads(embedder, tmp_path, change):
    from jiffy.safetensors import write_safetensors

    weight, bias, labels = np.zeros((2, 36), np.float32), np.zeros(2, np.float32), '["a", "b"]'
    if change == "labels":
        labels = "[1, 2]"
    elif change == "json":
        labels = "[" * 100_000
    elif change == "rows":
        bias = np.zeros(3, np.float32)
    elif change == "nan":
        weight[0, 0] = np.nan
    arrays = {"weight": weight} if change == "none" else {"weight": weight, "bias": bias}
    write_safetensors(tmp_path / "head.safetensors", arrays, {"labels": labels})
    with pytest.raises(jiffy.FormatError, match="head.safetensors (labels|weight|bias)"):
        tasks.Classifier.load(tmp_path / "head.safetensors", embedder)


def test_results_are_plain_data(models):
    found = tasks.text_classification("a text", models["sequence"][0])
    with pytest.raises(AttributeError):
        found.label = "other"
    assert json.dumps(found.scores)


def test_long_lists_show_how_far_they_are(embedder, monkeypatch, capsys):
    monkeypatch.setattr(tasks.models, "_LONG", 5)
    some = [f"text {i}" for i in range(20)]
    expected = embedder.encode(some)
    assert_same(tasks.embed(some, embedder), expected)
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert_same(tasks.embed(some, embedder), expected)
    assert "texts" in capsys.readouterr().err
    assert_same(tasks.embed(some, embedder, progress=False), expected)
    assert capsys.readouterr().err == ""
