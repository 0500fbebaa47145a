"""Text cut into parts gives the ids of the whole text, whatever the words, the spaces and the tokenizer's rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from jiffy import text_cuts
from jiffy.pre_tokenizers import PRE_TOKENIZERS
from jiffy.tokenizer import Tokenizer

_KINDS = [*{id(kind): name for name, kind in PRE_TOKENIZERS.items()}.values(), "sentencepiece", "sentencepiece-prefix"]
_PIECES = ["a", "ab", "abc", "b's", "12", "1234", "é", "漢字", "_", "-", ".", "<tool>", "<|eos|>", "\u2581", "I'm"]
_SPACES = [" ", " ", " ", "\n", "\n\n", "  ", "\t", "\u3000", ""]
_TEXTS = st.lists(st.sampled_from(_PIECES) | st.sampled_from(_SPACES), max_size=60).map("".join)


def _tokenizer(kind: str) -> Tokenizer:
    if kind.startswith("sentencepiece"):
        tokens = [
            "<unk>",
            "<|eos|>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
            *"\u2581abc",
            "ab",
            "\u2581ab",
            "<tool>",
        ]
        values = {"model": "llama", "tokens": tokens, "add_space_prefix": kind.endswith("prefix")}
        values |= {"scores": np.arange(len(tokens), dtype=np.float32), "add_bos_token": False}
        types = [2, 3, *[6] * 256, *[1] * 6, 4]
    else:
        tokens, merges = tiny.vocabulary(340)
        values = {"model": "gpt2", "pre": kind, "tokens": tokens, "merges": [f"{a} {b}" for a, b in merges]}
        values["add_bos_token"] = False
        types = [1] * 256 + [3] * 3 + [1] * (len(tokens) - 259)
    values["token_type"] = np.array(types, np.int32)
    return Tokenizer.from_source({f"tokenizer.ggml.{key}": value for key, value in values.items()})


@pytest.mark.parametrize("kind", _KINDS)
def test_parts_give_the_ids_of_the_whole(kind):
    tokenizer = _tokenizer(kind)
    parts_seen = 0

    @settings(max_examples=150, deadline=None)
    @given(text=_TEXTS, part_chars=st.integers(1, 8), parse_special=st.booleans())
    def check(text, part_chars, parse_special):
        nonlocal parts_seen
        whole = tokenizer.encode(text, parse_special=parse_special)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(text_cuts, "PART_CHARS", part_chars)
            parts_seen += len(list(text_cuts.cuts(text, tokenizer._plain))) - 1
            assert tokenizer.encode(text, parse_special=parse_special) == whole

    check()
    assert parts_seen > 0
