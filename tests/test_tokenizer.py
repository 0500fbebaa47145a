"""Text to ids and back: as llama.cpp has it, without loss, and never a special token that the caller didn't ask for."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from jiffy import text_cuts
from jiffy.errors import ParameterError
from jiffy.gguf import read_gguf
from jiffy.tokenizer import Tokenizer
from tokenizer_files import folder, metadata, spm_metadata

VECTORS = ["command-r", "deepseek-coder", "falcon", "gpt-2", "llama-bpe", "llama-spm"]
VECTORS += ["mpt", "phi-3", "qwen2", "qwen35", "refact", "starcoder"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
CHAT = "<|im_start|>user\nIt's 1234.<|im_end|>\n"


@pytest.fixture(scope="module")
def smollm2(smollm2_path) -> Tokenizer:
    return Tokenizer.from_source(read_gguf(smollm2_path).metadata)


@pytest.fixture(scope="module")
def spm(vocab_vectors) -> Tokenizer:
    return Tokenizer.from_source(read_gguf(vocab_vectors / "ggml-vocab-llama-spm.gguf").metadata)


@pytest.mark.parametrize("name", VECTORS)
def test_ids_are_those_of_llama_cpp(vocab_vectors, name):
    path = vocab_vectors / f"ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.from_source(read_gguf(path).metadata)
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path}.out").read_text().split("\n")
    assert len(texts) > 40
    for text, line in zip(texts, lines, strict=False):  # the ids end with an empty line
        ids = tokenizer.encode(text, add_bos=False)
        assert ids == [int(one) for one in line.split()], text
        assert tokenizer.decode(ids) == text


def test_smollm2_as_in_its_file(smollm2):
    assert (smollm2.vocab_size, smollm2.bos_id, smollm2.eos_ids) == (49152, 1, (2,))
    assert smollm2.chat_template.startswith("{% for message in messages %}")
    assert smollm2.token_to_id("<|im_end|>") == 2
    assert smollm2.id_to_token(2) == "<|im_end|>"
    assert smollm2.token_to_id("no such token") is None


def test_smollm2_loads_soon(smollm2_path):
    values = read_gguf(smollm2_path).metadata
    start = time.process_time()
    Tokenizer.from_source(values)
    assert time.process_time() - start < 0.4


def test_a_novel_comes_back(smollm2, spm, botchan_text):
    for tokenizer in (smollm2, spm):
        ids = tokenizer.encode(botchan_text)
        assert len(ids) < len(botchan_text) / 3
        assert tokenizer.decode(ids) == botchan_text


def test_digits_stand_alone(smollm2):
    assert [smollm2.decode([one]) for one in smollm2.encode("in 1906:")] == ["in", " ", "1", "9", "0", "6", ":"]


def test_special_text_is_text_unless_asked_for(smollm2):
    plain = smollm2.encode(CHAT)
    assert not smollm2.special_ids & set(plain)
    assert smollm2.decode(plain) == CHAT
    parsed = smollm2.encode(CHAT, parse_special=True)
    assert (parsed[0], parsed.count(1), parsed.count(2)) == (1, 1, 1)
    assert smollm2.decode(parsed, skip_special=False) == CHAT
    assert smollm2.decode(parsed) == "user\nIt's 1234.\n"
    assert smollm2.encode(CHAT) == plain, "one flag must not change the other way of encoding"


def test_text_that_merges_into_a_special_token_is_refused(tmp_path):
    types = np.ones(300, "<i4")
    types[tiny.vocabulary(300)[0].index("ab")] = 3
    tokenizer = Tokenizer.from_source(metadata(tmp_path, token_type=types))
    assert tokenizer.decode(tokenizer.encode("a b")) == "a b"
    with pytest.raises(ParameterError, match='without a special token, found "ab"'):
        tokenizer.encode("xx ab")


def test_a_token_of_the_users_is_found_in_plain_text_too():
    tokenizer = Tokenizer.from_source(spm_metadata())
    ids = tokenizer.encode("ab<tool></s>", add_bos=False)
    assert tokenizer.token_to_id("<tool>") in ids
    assert tokenizer.token_to_id("</s>") not in ids
    assert tokenizer.decode([*ids, 2]) == "ab<tool> </s>"  # as in llama.cpp, a space goes before every stretch of text


def test_scores_say_what_merges_first():
    tokenizer = Tokenizer.from_source(spm_metadata())
    assert [tokenizer.id_to_token(one) for one in tokenizer.encode("abc")] == ["<s>", "▁ab", "c"]
    scores = np.array([0.0] * 263 + [-1.0, -3.0, -2.0, 0.0], "<f4")
    tokenizer = Tokenizer.from_source(spm_metadata(scores=scores))
    assert [tokenizer.id_to_token(one) for one in tokenizer.encode("abc")] == ["<s>", "▁", "abc"]
    tokenizer = Tokenizer.from_source(spm_metadata(add_space_prefix=False))
    assert [tokenizer.id_to_token(one) for one in tokenizer.encode("abc é")][1:] == ["abc", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode(" abc é")) == " abc é"


def test_bos_comes_once_and_where_the_model_wants_it(tmp_path, smollm2):
    assert smollm2.encode("a") == smollm2.encode("a", add_bos=False)
    assert Tokenizer.from_source(spm_metadata()).encode("")[:2] == [1]
    assert Tokenizer.from_source(spm_metadata(add_bos_token=False)).encode("") == []
    wanted = Tokenizer.from_source(metadata(tmp_path, add_bos_token=True))
    assert wanted.encode("a")[0] == tiny.BOS
    assert wanted.encode("a", add_bos=False) == wanted.encode("a")[1:]
    assert wanted.encode("<|bos|>a", parse_special=True) == wanted.encode("a")
    assert wanted.encode("<|bos|>a").count(tiny.BOS) == 1


def test_bos_of_a_folder(tmp_path):
    path = folder(tmp_path)
    library = tiny.tokenizer(300)
    from tokenizers.processors import TemplateProcessing

    specials = [("<|bos|>", tiny.BOS), ("<|eos|>", tiny.EOS)]
    library.post_processor = TemplateProcessing(single="<|bos|> $A <|eos|>", special_tokens=specials)
    library.save(str(path / "tokenizer.json"))
    for config, wanted in (
        ({"bos_token": "<|bos|>", "add_bos_token": False}, False),
        ({"bos_token": "<|bos|>"}, True),
        ({"bos_token": {"content": "<|bos|>"}, "add_bos_token": None}, True),
        ({"bos_token": "<|pad|>"}, False),
        ({}, True),  # config.json names it
    ):
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        ids = Tokenizer.from_source(path).encode("abc")
        assert (ids[0] == tiny.BOS) == wanted, config
        assert tiny.EOS not in ids


@pytest.mark.parametrize("vocab_size", [259, 300])
def test_folder_and_gguf_agree(tmp_path, vocab_size):
    tiny.write_hf_llama(tmp_path / "hf", vocab_size=vocab_size)
    tiny.write_gguf_llama(tmp_path / "model.gguf", vocab_size=vocab_size, chat_template="{{ 1 }}")
    ours = [Tokenizer.from_source(tmp_path / "hf"), Tokenizer.from_source(read_gguf(tmp_path / "model.gguf").metadata)]
    for text in ("abc acab", "é 漢字 🙂\n\n 12", CHAT, "x<|eos|>y"):
        for parse_special in (False, True):
            one, other = (tokenizer.encode(text, parse_special=parse_special) for tokenizer in ours)
            assert one == other
            assert [tokenizer.decode(one, skip_special=False) for tokenizer in ours] == [text, text]
    for tokenizer in ours:
        assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_ids) == (vocab_size, tiny.BOS, (tiny.EOS,))
    assert [tokenizer.chat_template for tokenizer in ours] == [None, "{{ 1 }}"]


def test_chat_template_of_a_folder(tmp_path):
    assert Tokenizer.from_source(folder(tmp_path, {"chat_template": "a"})).chat_template == "a"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    assert Tokenizer.from_source(folder(tmp_path, {"chat_template": named})).chat_template == "d"
    assert Tokenizer.from_source(folder(tmp_path, {"chat_template": named[:1]})).chat_template is None
    path = folder(tmp_path, {"chat_template": "a"}, chat_template__jinja="file")
    assert Tokenizer.from_source(path).chat_template == "file"


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, parse_special=st.booleans())
def test_any_text_comes_back(smollm2, spm, text, parse_special):
    # SentencePiece can't tell its visible space from a space.
    assert spm.decode(spm.encode(text, parse_special=parse_special)) == text.replace("\u2581", " ")
    # SmolLM2 was trained without these bytes; a byte that has no token is left out, as in llama.cpp.
    text = "".join(char for char in text if not set(b"\x04\x06\x13\x14\x16\x1d\xf1\xf2") & set(char.encode()))
    assert smollm2.decode(smollm2.encode(text, parse_special=parse_special)) == text
    assert smollm2.encode("\x04" + text)[-1:] == smollm2.encode(text)[-1:]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), skip_special=st.booleans())
def test_a_stream_gives_what_decode_gives(smollm2, spm, data, skip_special):
    for tokenizer in (smollm2, spm):
        # The first ids of these vocabularies are special tokens and bytes.
        ids = data.draw(st.lists(st.integers(0, 400) | st.integers(0, tokenizer.vocab_size - 1), max_size=40))
        stream = tokenizer.stream(skip_special=skip_special)
        parts = [*map(stream.put, ids), stream.finish()]
        assert "".join(parts) == tokenizer.decode(ids, skip_special=skip_special)
        assert stream.put(ids[0]) == parts[0] if ids else stream.finish() == "", "it begins anew"


def test_half_a_character_is_held_back(smollm2):
    ids = smollm2.encode("a🙂")
    assert len(ids) > 2
    stream = smollm2.stream()
    assert [stream.put(one) for one in ids] == ["a", *[""] * (len(ids) - 2), "🙂"]
    assert smollm2.decode(ids[:-1]) == "a\ufffd"
    assert smollm2.decode(ids[:-1] + smollm2.encode("b")) == "a\ufffdb"
    assert smollm2.decode(ids[-1:]) == "\ufffd\ufffd", "two bytes that continue nothing"


def test_long_text_is_cut_without_a_trace(smollm2, spm, botchan_text, monkeypatch):
    text = botchan_text[:20_000] + " x ".join(["<s>", "<|im_start|>a", "漢字 テスト", "é e\u0301\n\n g   h\t i "]) * 3
    for tokenizer in (smollm2, spm):
        whole = {special: tokenizer.encode(text, parse_special=special) for special in (False, True)}
        for chars in (1, 50, 1000):
            monkeypatch.setattr(text_cuts, "PART_CHARS", chars)
            assert len(list(text_cuts.cuts(text, tokenizer._plain))) > len(text) / chars / 20
            for special, ids in whole.items():
                assert tokenizer.encode(text, parse_special=special) == ids
        monkeypatch.undo()


def test_ten_megabytes(smollm2, botchan_text):
    text = botchan_text * (1 + 10_000_000 // len(botchan_text))
    start = time.process_time()
    ids = smollm2.encode(text)
    assert time.process_time() - start < 60
    assert smollm2.decode(ids[:1000]) == text[: len(smollm2.decode(ids[:1000]))]
    with pytest.raises(ParameterError, match="characters without a space"):
        smollm2.encode("a" * 10_000_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "a string, found nothing"),
        (b"bytes", "a string, found bytes of 5"),
        (["a"], "a string, found a list of 1"),
        ("ab\ud800", r"Unicode text, found the lone surrogate U\+D800 at character 2"),
        ("é" * (33 << 20), "at most 67108864 bytes of UTF-8"),
    ],
    ids=["none", "bytes", "list", "surrogate", "66 MiB"],
)
def test_what_is_no_prompt(smollm2, text, message):
    with pytest.raises(ParameterError, match=message) as caught:
        smollm2.encode(text)
    assert caught.value.where == "prompt"


@pytest.mark.parametrize("bad", [-1, 49152, 2**70, "1", None, 1.0])
def test_what_is_no_id(smollm2, bad):
    with pytest.raises(ParameterError, match=r"^token_ids\[2\]: .*0 to 49151 \(vocab_size 49152\)"):
        smollm2.decode([5, np.int64(6), bad])
    with pytest.raises(ParameterError):
        smollm2.id_to_token(bad)
