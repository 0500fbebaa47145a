"""Long text in parts that can be encoded one by one with the same result."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .errors import ParameterError
from .spelling import SPACE

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

PART_CHARS = 1 << 18
MAX_UNCUT_CHARS = 1 << 21  # the library needs up to 500 bytes for every character that it encodes at once

_BETWEEN_WORDS = re.compile(r"(?<=[^\W_])[ \n](?=[^\W_])")
_WINDOW = 32
_ACROSS_WORDS = re.compile(r"\S\s")  # in an added token, which is found in text before anything else
_ACROSS_PIECES = re.compile(f"[^{SPACE}]{SPACE}")


def cuts(text: str, library: Library) -> Iterator[str]:
    """`text` in parts whose ids, joined, are those of the whole text.

    A part ends between a word and the space or the end of line before the next one, where no token reaches across.
    Tokenizers without such places and text without words are not cut.
    Raises ParameterError if a part would have more than MAX_UNCUT_CHARS characters.
    """
    start = 0
    is_cut, skipped = _rule(library) if len(text) > PART_CHARS else (_never, 0)
    while len(text) - start > PART_CHARS:
        found = _BETWEEN_WORDS.finditer(text, start + PART_CHARS)
        stop = next((match.start() for match in found if is_cut(text, match.start())), len(text))
        if stop - start > MAX_UNCUT_CHARS:
            expected = f"at most {MAX_UNCUT_CHARS} characters without a space between words where it may be cut"
            raise ParameterError("prompt", expected=expected, found=f"{stop - start} characters")
        yield text[start:stop]
        start = stop + skipped
    yield text[start:]


def _rule(library: Library) -> tuple[Callable[[str, int], bool], int]:
    """Whether text may be cut before a place, and how many characters after it the library adds to a part by itself."""
    added = library.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip or _ACROSS_WORDS.search(token.content) for token in added):
        return _never, 0
    normalizers = _steps(library.normalizer, "normalizers")
    if library.pre_tokenizer is not None:
        pre_tokenizers = _steps(library.pre_tokenizer, "pretokenizers")
        prefixed = any(step.get("add_prefix_space") for step in pre_tokenizers)
        prefixed = prefixed or any(step["type"] == "Prepend" for step in normalizers)
        byte_level = any(step["type"] == "ByteLevel" for step in pre_tokenizers)
        return (_Between(library), 0) if byte_level and not prefixed else (_never, 0)
    spaces = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    prefix = [{"type": "Prepend", "prepend": SPACE}]
    # A word that is an added token is not preceded by the prefix, but by the space that a cut would leave out.
    if normalizers not in (spaces, prefix + spaces) or any(token.content[:1].isalnum() for token in added):
        return _never, 0
    if any(map(_ACROSS_PIECES.search, library.get_vocab(with_added_tokens=False))):
        return _never, 0
    return _before_space, int(normalizers != spaces)


def _steps(part: object, key: str) -> list[dict[str, object]]:
    """The state of a normalizer or pre-tokenizer, as a list however it is nested."""
    state = json.loads(part.__getstate__()) if part is not None else {key: []}
    return state.get(key, [state])


class _Between:
    """Asks the pre-tokenizer itself, with a little text on both sides."""

    def __init__(self, library: Library) -> None:
        self._pre_tokenize = library.pre_tokenizer.pre_tokenize_str

    def __call__(self, text: str, at: int) -> bool:
        left = max(at - _WINDOW, 0)
        return any(stop == at - left for _, (_, stop) in self._pre_tokenize(text[left : at + _WINDOW]))


def _before_space(text: str, at: int) -> bool:
    return text[at] == " "


def _never(text: str, at: int) -> bool:
    return False
