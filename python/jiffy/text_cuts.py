"""Long text in parts that can be encoded one by one with the same result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from tokenizers import Tokenizer as Library

from .errors import ParameterError

PART_CHARS = 1 << 18
MAX_UNCUT_CHARS = 1 << 21  # the library needs up to 500 bytes for every character that it encodes at once

_BETWEEN_WORDS = re.compile(r"(?<=[^\W_]) (?=[^\W_])")
_WINDOW = 32


def cuts(text: str, library: Library) -> Iterator[str]:
    """`text` in parts whose ids, joined, are those of the whole text.

    A part ends between a word and the space before the next one, where the pre-tokenizer cuts anyhow. Tokenizers
    without such places (SentencePiece merges across words) and text without words are not cut.
    Raises ParameterError if a part would have more than MAX_UNCUT_CHARS characters.
    """
    start = 0
    while len(text) - start > PART_CHARS:
        stop = _next_cut(text, start, library) if _cuts_before_spaces(library) else len(text)
        if stop - start > MAX_UNCUT_CHARS:
            expected = f"at most {MAX_UNCUT_CHARS} characters without a space between words where it may be cut"
            raise ParameterError("prompt", expected=expected, found=f"{stop - start} characters")
        yield text[start:stop]
        start = stop
    yield text[start:]


def _next_cut(text: str, start: int, library: Library) -> int:
    for match in _BETWEEN_WORDS.finditer(text, start + PART_CHARS):
        if _is_cut(text, match.start(), library):
            return match.start()
    return len(text)


def _is_cut(text: str, at: int, library: Library) -> bool:
    """Asks the pre-tokenizer itself, with a little text on both sides."""
    left = max(at - _WINDOW, 0)
    pieces = library.pre_tokenizer.pre_tokenize_str(text[left : at + _WINDOW])
    return any(stop == at - left for _, (_, stop) in pieces)


def _cuts_before_spaces(library: Library) -> bool:
    """Byte-level tokenizers do, unless they put a space before every text or have tokens with a space inside."""
    if library.pre_tokenizer is None:
        return False
    state = json.loads(library.pre_tokenizer.__getstate__())
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    byte_level = [step for step in steps if step["type"] == "ByteLevel"]
    normalizer = library.normalizer.__getstate__() if library.normalizer is not None else b""
    added = library.get_added_tokens_decoder().values()
    return (
        bool(byte_level)
        and not any(step["add_prefix_space"] for step in byte_level)
        and b"Prepend" not in normalizer
        and not any(token.lstrip or token.rstrip or " " in token.content.strip() for token in added)
    )
