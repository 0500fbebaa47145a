"""opus-mt's folders: two vocabularies of sentencepiece, and one file that numbers the pieces of both."""

from __future__ import annotations

import json

import pytest

import jiffy
import tiny_marian
import tiny_seq2seq
from jiffy.named_files import FilesOfFolder
from jiffy.tokenizer import Tokenizer
from jiffy.tokenizer_spm import vocabulary_from_spm
from tiny_marian import PIECES


@pytest.fixture
def folder(tmp_path):
    """The pieces in another order, with one that the target's file lacks, and an id for padding."""
    tiny_seq2seq.write_seq2seq(tmp_path, "marian", eos_token_id=0, forced_eos_token_id=0)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "source.spm").write_bytes(tiny_marian.spm_file(PIECES))
    (tmp_path / "target.spm").write_bytes(tiny_marian.spm_file(PIECES[:-1]))
    texts = [text for text, *_ in PIECES]
    ids = {text: 3 * i for i, text in enumerate(texts)}
    (tmp_path / "vocab.json").write_text(json.dumps({**ids, "<pad>": 258}))
    return tmp_path


def test_ids_are_those_of_the_numbering(folder):
    model = jiffy.load(folder)
    own = Tokenizer(vocabulary_from_spm(FilesOfFolder(folder), "source.spm"), "source.spm")
    text = "ab abc, the! 12 é zz"
    assert model.reader.ids(text) == [*(3 * i for i in own.encode(text)), 0]
    assert model.tokenizer.decode(model.reader.ids(text)[:-1]) == "ab abc, the! 12 é "
    assert model.reader.eos_ids == (0,)
    answer = model.generate("ab abc", max_tokens=5)
    spelled = [
        i for i in answer.token_ids if 0 < i < model.tokenizer.vocab_size
    ]  # others are rows that fill the matrix up
    assert answer.text == model.tokenizer.decode(spelled)


@pytest.mark.parametrize("raw", ["{}", '{"a": -1}', '{"a": 1.5}', '{"a": 99999999}', "[]", '{"a": 299}'])
def test_numberings_that_are_none(folder, raw):
    (folder / "vocab.json").write_text(raw)
    with pytest.raises(jiffy.FormatError, match=r"vocab"):
        jiffy.load(folder)
