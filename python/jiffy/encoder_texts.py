"""Texts and pairs of texts to what an encoder reads, through the Hugging Face `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import ContextOverflow, Error, FormatError, ParameterError, shown
from .fields import Fields
from .named_files import MAX_TOKENIZER_BYTES
from .tokenizer import check_text
from .vocabulary import library_errors, read_library

if TYPE_CHECKING:  # the library takes a while to import
    from tokenizers import Encoding

    from .named_files import NamedFiles

Text = str | tuple[str, str]  # a text, or two that are read together

_WHERE, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_MASKS = ("[MASK]", "<mask>")


class Tokens:
    """A text as an encoder reads it.

    offsets: of each token within its text, in characters; (0, 0) of one that the model puts there itself, as `special`
    says. parts: of a pair, 0 or 1: which text a token is of, None for such a one.
    """

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding  # turns into lists only what is asked for
        self.ids: list[int] = encoding.ids

    @property
    def type_ids(self) -> list[int]:
        return self._encoding.type_ids

    @property
    def offsets(self) -> list[tuple[int, int]]:
        return self._encoding.offsets

    @property
    def special(self) -> list[int]:
        return self._encoding.special_tokens_mask

    @property
    def parts(self) -> list[int | None]:
        return self._encoding.sequence_ids


class TextReader:
    """Turns texts into tokens, with what the model's own tokenizer puts around them.

    mask_token, mask_id: the token that stands for a hidden one, whose id is None where the vocabulary has none. Text
    that looks like a special token is text, but where it is asked for.
    """

    def __init__(self, files: NamedFiles, vocab_size: int) -> None:
        """Raises FormatError for files without a good tokenizer.json."""
        raw = files.read(_WHERE, MAX_TOKENIZER_BYTES)
        with library_errors(_WHERE, "a tokenizer of the tokenizers library"):
            self._library, self._special = read_library(raw, _WHERE), read_library(raw, _WHERE)
            self._library.encode_special_tokens = True
            largest = max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocab_size:
            raise FormatError(_WHERE, expected=f"ids below the model's {vocab_size}", found=str(largest))
        config = Fields(files.optional_json(_CONFIG), _CONFIG)
        self.mask_token = self._mask_token(config.get("mask_token"))
        self.mask_id = self._library.token_to_id(self.mask_token)

    def read(
        self, texts: Sequence[Text], most: int, *, truncate: bool = False, parse_special: bool = False
    ) -> list[Tokens | Error]:
        """The tokens of each text, at most `most`, or what is wrong with it.

        truncate: leaves out what is too much, at the end of a text, of a pair at the end of the longer one.
        """
        found: list[Tokens | Error | None] = [_problem(text) for text in texts]
        good = [i for i, problem in enumerate(found) if problem is None]
        library = self._special if parse_special else self._library
        with library_errors(_WHERE, "a tokenizer that can encode"):
            encodings = library.encode_batch([texts[i] for i in good]) if good else []
        for i, encoding in zip(good, encodings, strict=True):
            found[i] = self._fitting(texts[i], encoding, most, truncate)
        return found  # type: ignore[return-value]  # no None is left

    def windows(self, question: str, context: str, most: int, stride: int) -> list[Tokens]:
        """A pair in as many windows of at most `most` tokens as its second text needs, which overlap by `stride`.

        Raises ParameterError, ContextOverflow.
        """
        for text in (question, context):
            check_text(text)
        with library_errors(_WHERE, "a tokenizer that can encode"):
            first = self._library.encode(question, add_special_tokens=False)
            second = self._library.encode(context, add_special_tokens=False)
            room = most - len(first) - self._library.num_special_tokens_to_add(is_pair=True)
            if not len(first) or not len(second):
                raise ParameterError(
                    "question and context", expected="texts of at least one token", found="an empty one"
                )
            if room <= stride:
                expected = f"a question that leaves more than {stride} of {most} tokens"
                raise ContextOverflow("question", expected=expected, found=f"{len(first)} tokens")
            if len(second) > room:
                second.truncate(room, stride=stride)
            parts = [second, *second.overflowing]
            return [Tokens(self._library.post_process(first, part)) for part in parts]

    def tokenizer_json(self) -> str:
        """The tokenizer as the tokenizers library writes it, which cuts nothing off and pads nothing."""
        return self._library.to_str()

    def id_to_token(self, token_id: int) -> str:
        return self._library.id_to_token(token_id) or ""

    def decode(self, token_id: int) -> str:
        """The text that a token stands for by itself."""
        with library_errors(_WHERE, "a tokenizer that can decode"):
            return self._library.decode([token_id], skip_special_tokens=False)

    def _mask_token(self, named: object) -> str:
        """The token that files name, as a text or as an object with "content", or else the usual one that there is."""
        text = named.get("content") if isinstance(named, dict) else named
        usual = (one for one in _MASKS if self._library.token_to_id(one) is not None)
        return text if isinstance(text, str) else next(usual, _MASKS[0])

    def _fitting(self, text: Text, encoding: Encoding, most: int, truncate: bool) -> Tokens | Error:
        own = len(encoding) - self._library.num_special_tokens_to_add(is_pair=isinstance(text, tuple))
        if own < 1:
            return ParameterError("text", expected="at least one token", found="none")
        if len(encoding) <= most:
            return Tokens(encoding)
        if not truncate:
            expected = f'at most {most} tokens, or overflow="truncate"'
            return ContextOverflow("text", expected=expected, found=str(len(encoding)))
        return self._truncated(text, most)

    def _truncated(self, text: Text, most: int) -> Tokens | Error:
        pair = isinstance(text, tuple)
        parts = [self._library.encode(one, add_special_tokens=False) for one in (text if pair else (text,))]
        room = most - self._library.num_special_tokens_to_add(is_pair=pair)
        if room < len(parts):
            return ContextOverflow("context", expected="room for a token of each text", found=str(most))
        lengths = [len(part) for part in parts]
        if pair:
            first = min(lengths[0], max(room - lengths[1], room - room // 2))
            lengths = [first, min(lengths[1], room - first)]
        else:
            lengths = [room]
        for part, length in zip(parts, lengths, strict=True):
            part.truncate(length)
        return Tokens(self._library.post_process(*parts))


def _problem(text: object) -> Error | None:
    """What makes it no text that a tokenizer takes."""
    try:
        if isinstance(text, tuple):
            if len(text) != 2:
                raise ParameterError("text", expected="a string or a pair of them", found=shown(text))
            for one in text:
                check_text(one, "text")
        else:
            check_text(text, "text")
    except ParameterError as error:
        return error
    return None
