"""An encoder's numbers: the same bits in whatever company; bad input and bad files named; memory bounded."""

from __future__ import annotations

import json
import random
import threading
import tracemalloc
from itertools import islice

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jiffy
import tiny_encoders as tiny
from compare import assert_same
from jiffy import results
from jiffy.sentence_config import Embedding


def texts(n: int, seed: int = 0) -> list[str]:
    """Of 1 to 200 letters."""
    rng = random.Random(seed)
    return ["".join(rng.choices(tiny.LETTERS[:26] + "  ", k=rng.randint(1, 200))) + "x" for _ in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny.write(folder, "bert", "sequence")
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return jiffy.load_encoder(folder, n_threads=2, context=512)


@pytest.mark.parametrize("weights", ["f32", "bf16", "i8", "i8g32", "i4a"])
@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert"])
def test_bits_don_t_depend_on_companions_or_threads(tmp_path, name, weights):
    tiny.write(tmp_path, name)
    some = texts(40)
    one, many = (jiffy.load_encoder(tmp_path, weights=weights, n_threads=n) for n in (1, 3))
    expected = np.stack([one.encode(text) for text in some])
    assert_same(many.encode(some), expected)
    order = random.Random(1).sample(range(40), 40)
    assert_same(many.encode([some[i] for i in order]), expected[order])
    for pooling in ("max", "first", "last"):
        assert_same(many.encode(some[:5], pooling=pooling), one.encode(some[:5], pooling=pooling))


@pytest.mark.parametrize("weights", ["f32", "i8"])
@pytest.mark.parametrize("name", ["bert", "albert_groups", "modernbert"])
def test_the_last_layer_of_a_row_alone_has_the_same_bits(tmp_path, name, weights):
    tiny.write(tmp_path, name, "mask")
    encoder = jiffy.load_encoder(tmp_path, weights=weights)
    for text in texts(5):
        rows = encoder.hidden_states(text)
        assert_same(encoder.encode(text, pooling="first"), rows[0])
        assert_same(encoder.encode(text, pooling="last"), rows[-1])
        scores = encoder.scores(text)
        native, tokens = encoder._native("head"), encoder.reader.read([text], 512)
        assert_same(encoder._run(native, tokens, rows=np.array([1])), scores[1:2])


@pytest.mark.parametrize("weights", ["f32", "i8g32", "i4"])
def test_bits_don_t_depend_on_the_instruction_set(folder, weights):
    some = texts(10)
    by_isa = [jiffy.load_encoder(folder, weights=weights, isa=isa).encode(some) for isa in jiffy.isas()]
    for other in by_isa[1:]:
        assert_same(other, by_isa[0])


ROTATED = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}


@pytest.mark.parametrize("weights", ["i8", "i8g32", "i4a"])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_rotated_layers_give_the_same_bits_everywhere(tmp_path, name, weights):
    tiny.write(tmp_path, name, **ROTATED)
    some = texts(20)
    one = jiffy.load_encoder(tmp_path, weights=weights, n_threads=1)
    ops = {at.op for at in one.trace("hidden").instructions}
    assert "rotate_quantize" in ops and "quantize" not in ops
    expected = np.stack([one.encode(text) for text in some])
    for isa in jiffy.isas():
        for fuse in (True, False):
            other = jiffy.load_encoder(tmp_path, weights=weights, n_threads=3, isa=isa, fuse=fuse)
            assert_same(other.encode(some), expected)


def test_poolings_are_those_of_hidden_rows(encoder):
    text = "a few words"
    rows = encoder.hidden_states(text).astype(np.float64)
    expected = {"mean": rows.mean(axis=0), "first": rows[0], "last": rows[-1], "max": rows.max(axis=0)}
    for pooling, vector in expected.items():
        np.testing.assert_allclose(encoder.encode(text, pooling=pooling), vector, atol=1e-5)
        unit = encoder.encode(text, pooling=pooling, normalize=True)
        np.testing.assert_allclose(unit, vector / np.linalg.norm(vector), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True}, ("mean", False)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("first", False)),
        ({"pooling_mode_max_tokens": True}, ("max", False)),
        ({"pooling_mode_lasttoken": True, "normalize": True}, ("last", True)),
        ({"pooling_mode": "cls", "normalize": True}, ("first", True)),
    ],
)
def test_files_of_sentence_transformers(tmp_path, pooling, expected):
    tiny.write_modules(tmp_path, pooling.pop("normalize", False), pooling)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    assert Embedding.of(tmp_path) == Embedding(*expected, 77)


@pytest.mark.parametrize(
    ("modules", "pooling", "error"),
    [
        ('{"a": 1}', {}, jiffy.FormatError),
        ('[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]', {}, jiffy.Unsupported),
        ('[{"type": "x.Pooling", "path": "../secret"}]', {}, jiffy.FormatError),
        ('[{"type": "x.Pooling", "path": "nowhere"}]', {}, jiffy.FormatError),
        (None, {}, jiffy.Unsupported),
        (None, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, jiffy.Unsupported),
        (None, {"pooling_mode_weightedmean_tokens": True}, jiffy.Unsupported),
        (None, {"pooling_mode_mean_tokens": "yes"}, jiffy.FormatError),
    ],
)
def test_bad_files_of_sentence_transformers(tmp_path, modules, pooling, error):
    tiny.write_modules(tmp_path, False, pooling)
    if modules is not None:
        (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(error):
        Embedding.of(tmp_path)


BAD_TEXTS = [
    ("", jiffy.ParameterError, "text: expected at least one token, found none"),
    (" \n", jiffy.ParameterError, "text: expected at least one token"),
    ("a" + "\ud800", jiffy.ParameterError, "text: expected Unicode text, found the lone surrogate"),
    (None, jiffy.ParameterError, "text: expected a string"),
    (b"bytes", jiffy.ParameterError, "text: expected a string"),
    (("a", "b", "c"), jiffy.ParameterError, "text: expected a string or a pair"),
    (("a", 7), jiffy.ParameterError, "text: expected a string"),
    ("word " * 200_000, jiffy.ContextOverflow, 'text: expected at most 512 tokens, or overflow="truncate", found'),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_bad_texts_are_named_and_cost_nothing_else(encoder, bad, error, message):
    good = texts(3)
    expected = encoder.encode(good)
    found = list(encoder.embeddings([good[0], bad, *good[1:]], errors="return"))
    assert isinstance(found[1], error) and message in str(found[1])
    assert_same(np.stack([found[0], *found[2:]]), expected)
    asked = encoder.embeddings([good[0], bad, *good[1:]])
    assert_same(next(asked), expected[0])
    with pytest.raises(error):
        next(asked)
    assert_same(np.stack(list(asked)), expected[1:])  # the rest of the list


def test_a_long_word_is_one_unknown_token(encoder):
    assert encoder.encode("w" * 1_000_000).shape == (36,)


def test_truncation_keeps_the_beginning(encoder):
    long = " ".join(texts(30))
    kept = encoder.reader.read([long], encoder.context, truncate=True)[0]
    whole = encoder.reader.read([long], 10**6)[0]
    assert kept.ids == [*whole.ids[:511], 3] and len(kept.ids) == 512
    assert_same(encoder.encode(long, overflow="truncate"), encoder.encode([long], overflow="truncate")[0])
    for pair in [(long, "b"), ("a", long), (long, long)]:
        tokens = encoder.reader.read([pair], encoder.context, truncate=True)[0]
        assert len(tokens.ids) == 512 and tokens.ids.count(3) == 2 and {0, 1} == set(tokens.type_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pooling: expected one of mean"),
        ({"overflow": "cut"}, "overflow: expected one of error, truncate"),
    ],
)
def test_bad_options_are_named(encoder, options, message):
    with pytest.raises(jiffy.ParameterError, match=message):
        encoder.encode("a", **options)


@pytest.mark.parametrize("ids", [[], [87], [-1], [[1]], ["a"], [1.5], [5] * 513, [2**40]])
def test_bad_token_ids(encoder, ids):
    with pytest.raises((jiffy.ParameterError, jiffy.ContextOverflow)):
        encoder.hidden_states(token_ids=ids)


def test_heads_that_are_not_there(tmp_path, encoder):
    tiny.write(tmp_path, "bert")
    with pytest.raises(jiffy.Unsupported, match="a checkpoint with a head"):
        jiffy.load_encoder(tmp_path).scores("a")
    with pytest.raises(jiffy.Unsupported, match='a head for "token"'):
        next(encoder.token_scores(["a"]))
    with pytest.raises(jiffy.Unsupported, match='a head for "mask"'):
        encoder.fill_mask("a [MASK]")


def test_numbers_that_are_none_are_an_error(tmp_path):
    tiny.write(tmp_path, "bert")
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name][5] = 3e38  # the letter a
    save_file(tensors, tmp_path / "model.safetensors")
    encoder = jiffy.load_encoder(tmp_path)
    with pytest.raises(jiffy.FormatError, match="expected weights that give numbers, found NaN or infinity"):
        encoder.encode("a")
    found = list(encoder.embeddings(["b", "a", "c"], errors="return"))
    assert isinstance(found[1], jiffy.FormatError) and np.isfinite(found[0]).all() and np.isfinite(found[2]).all()
    tensors[name][6] = np.nan
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(jiffy.FormatError, match="embed_tokens.weight"):
        jiffy.load_encoder(tmp_path)


CONFIGS = {
    "labels": ({"id2label": {"0": "a", "1": "b"}}, jiffy.FormatError, r"classifier.*: expected \[2, 36\]"),
    "id2label": ({"id2label": {"1": "a"}}, jiffy.FormatError, "id2label"),
    "label": ({"id2label": {"0": 7}}, jiffy.FormatError, "id2label"),
    "layers": ({"num_hidden_layers": 4}, jiffy.FormatError, "layer.3"),
    "heads": ({"num_attention_heads": 5}, jiffy.FormatError, "num_attention_heads"),
    "odd_heads": ({"num_attention_heads": 12}, jiffy.FormatError, "heads of an even width"),
    "ffn": ({"intermediate_size": 51}, jiffy.FormatError, r"expected \["),
    "vocab": ({"vocab_size": 86}, jiffy.FormatError, r"word_embeddings.weight: expected \[86, 36\]"),
    "positions": ({"max_position_embeddings": 2**40}, jiffy.FormatError, "max_position_embeddings"),
    "eps": ({"layer_norm_eps": "small"}, jiffy.FormatError, "layer_norm_eps"),
    "act": ({"hidden_act": "mish"}, jiffy.Unsupported, "hidden_act"),
    "relative": ({"position_embedding_type": "relative_key"}, jiffy.Unsupported, "position_embedding_type"),
    "decoder": ({"is_decoder": True}, jiffy.Unsupported, "is_decoder"),
    "quantised": ({"quantization_config": {}}, jiffy.Unsupported, "quantization_config"),
    "task": ({"architectures": ["BertForMultipleChoice"]}, jiffy.Unsupported, "architectures"),
    "tasks": ({"architectures": ["A", "B"]}, jiffy.FormatError, "architectures"),
    "head": ({"architectures": ["BertForQuestionAnswering"]}, jiffy.FormatError, "qa_outputs.weight"),
}


@pytest.mark.parametrize(("change", "error", "message"), CONFIGS.values(), ids=CONFIGS)
def test_bad_configs(folder, tmp_path, change, error, message):
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(folder / name)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(error, match=message):
        jiffy.load_encoder(tmp_path)


def test_a_tokenizer_of_more_tokens_than_the_model_has(folder, tmp_path):
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    made = tiny.tokenizer()
    made.add_tokens(["one more"])
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(jiffy.Error, match="tokenizer.json: expected ids below the model's 87, found 87"):
        jiffy.load_encoder(tmp_path)


def test_text_that_looks_special_is_text(encoder):
    assert encoder.reader.read(["a [SEP] b"], 100)[0].ids.count(3) == 1
    assert encoder.reader.read(["a [MASK] b"], 100, parse_special=True)[0].ids.count(encoder.reader.mask_id) == 1


def test_a_mask_is_filled_with_the_likeliest_tokens(tmp_path):
    tiny.write(tmp_path, "roberta", "mask")
    encoder = jiffy.load_encoder(tmp_path, weights="f32")
    first, second = encoder.fill_mask("a [MASK] b [MASK]", top=3)
    tokens = encoder.reader.read(["a [MASK] b [MASK]"], 100, parse_special=True)[0]
    scores = encoder.scores(token_ids=tokens.ids)
    for found, at in ((first, 2), (second, 4)):
        assert tokens.ids[at] == encoder.reader.mask_id
        best = np.argsort(-scores[at])[:3]
        assert [text for text, _ in found] == [encoder.reader.decode(int(i)) for i in best]
        assert sorted((p for _, p in found), reverse=True) == [p for _, p in found] and 0 < found[0][1] <= 1
    with pytest.raises(jiffy.ParameterError, match=r"at least one \[MASK\]"):
        encoder.fill_mask("a b")


@pytest.mark.parametrize("named", ["<hidden>", {"content": "<hidden>"}, None, 7])
def test_a_mask_by_another_name(tmp_path, named):
    tiny.write(tmp_path, "bert", "mask")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"mask_token": named}))
    known = isinstance(named, (str, dict))
    encoder = jiffy.load_encoder(tmp_path)
    assert encoder.reader.mask_token == ("<hidden>" if known else "[MASK]")
    if known:
        with pytest.raises(jiffy.Unsupported, match="a tokenizer with a mask, found no <hidden>"):
            encoder.fill_mask("a <hidden>")
    else:
        assert len(encoder.fill_mask("a [MASK]")) == 1


def test_any_number_of_texts_is_read_as_results_are_asked_for(encoder, monkeypatch):
    monkeypatch.setattr(results, "CHUNK_TEXTS", 16)
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield f"text {i}"

    asked = encoder.embeddings(endless())
    first = list(islice(asked, 20))
    assert len(taken) == 32
    more = list(islice(asked, 20))
    assert_same(np.stack([*first, *more]), encoder.encode([f"text {i}" for i in range(40)]))


def test_many_texts_don_t_grow_memory(encoder):
    asked = encoder.embeddings(f"text {i}" for i in range(10**9))
    for _ in islice(asked, 2000):
        pass
    tracemalloc.start()
    for _ in islice(asked, 1000):
        pass
    before = tracemalloc.get_traced_memory()[0]
    for _ in islice(asked, 10_000):
        pass
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after < before + 1_000_000


def test_threads_share_an_encoder(encoder):
    some = texts(30)
    expected = encoder.encode(some)
    found = [None] * 4

    def ask(i: int) -> None:
        found[i] = encoder.encode(some)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        assert_same(one, expected)


def test_load_gives_the_class_that_fits(folder, random_folder):
    assert isinstance(jiffy.load(folder), jiffy.Encoder)
    assert isinstance(jiffy.load(random_folder), jiffy.Model)
    with pytest.raises(jiffy.Unsupported, match="expected an encoder, found a language model"):
        jiffy.load_encoder(random_folder)
    assert jiffy.load(folder, weights="i8").info()["formats"].keys() == {"i8"}
