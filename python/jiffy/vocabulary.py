"""What a tokenizer file holds, wherever it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from .errors import Error, FormatError, Unsupported, shown
from .fields import Fields
from .files import parse_json
from .spelling import Spelling

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Library

MAX_VOCAB = 1 << 22

# Files often leave out that such a token steers the model (llama.cpp's converter has the same rule).
_LOOKS_SPECIAL = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)
_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as its file describes it.

    library: model, normalizer and pre-tokenizer. added: the tokens that are found in text before all else, by id.
    spelling: the bytes of the tokens that aren't added ones. bos_id is None where the file names none; add_bos says
    that a text begins with it. eos_ids: all ids that end a text. unknown_id: what text that has no token turns into.
    cut: text to ids, where the library has no part in it; it knows the tokens alone then.
    """

    library: Library
    added: dict[int, AddedToken]
    spelling: Spelling
    vocab_size: int
    bos_id: int | None
    add_bos: bool
    eos_ids: tuple[int, ...]
    chat_template: str | None
    unknown_id: int | None = None
    cut: Callable[[str], list[int]] | None = None

    def assemble(self, where: str) -> Library:
        """A library tokenizer of its own: it shares the model, but none of the flags, with all others."""
        from tokenizers import Tokenizer as Library

        library = Library(self.library.model)
        if self.library.normalizer is not None:
            library.normalizer = self.library.normalizer
        if self.library.pre_tokenizer is not None:
            library.pre_tokenizer = self.library.pre_tokenizer
        for special, tokens in groupby(self.added.values(), lambda token: token.special):
            add = library.add_special_tokens if special else library.add_tokens
            add(list(tokens))
        if library.get_added_tokens_decoder().keys() != self.added.keys():
            raise FormatError(where, expected="added tokens with the ids that follow the vocabulary", found="other ids")
        return library


def added_token(content: str, special: bool, **flags: bool) -> AddedToken:
    """A token found in text before all else; special ones only where the caller asks for them."""
    from tokenizers import AddedToken

    special = special or _LOOKS_SPECIAL.fullmatch(content) is not None
    return AddedToken(content, special=special, **flags)


def read_library(raw: bytes, where: str) -> Library:
    """The tokenizer in a tokenizer.json, which neither cuts nor pads; to be called within `library_errors`."""
    from tokenizers import Tokenizer as Library

    _check_prefix(raw, where)
    library = Library.from_buffer(raw)
    library.no_truncation()
    library.no_padding()
    return library


def _check_prefix(raw: bytes, where: str) -> None:
    """The library cuts such a prefix off the parts of BPE's merges without a look, and aborts within a character."""
    if _PREFIX.search(raw) is None:
        return
    model = Fields(parse_json(raw, where), where).inner("model")
    if model.get("type") != "WordPiece" and model.get("continuing_subword_prefix"):
        prefix = shown(model.get("continuing_subword_prefix"))
        raise Unsupported(model.place("continuing_subword_prefix"), expected="none beside merges", found=prefix)


@contextmanager
def library_errors(where: str, expected: str) -> Iterator[None]:
    """Turns what the library raises, Rust's panics among it, into a FormatError."""
    try:
        yield
    except Error:
        raise
    except BaseException as error:
        # PanicException derives from BaseException and can't be imported.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise FormatError(where, expected=expected, found=str(error)) from None
        raise
