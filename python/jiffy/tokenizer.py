"""Text to token ids and back, through the Hugging Face `tokenizers` library."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ParameterError, shown
from .named_files import FilesOfFolder, NamedFiles
from .spelling import TextStream
from .text_cuts import cuts
from .vocabulary import Vocabulary, library_errors

if TYPE_CHECKING:  # the library takes a while to import
    from tokenizers import Tokenizer as Library

_MAX_TEXT_BYTES = 64 << 20


class Tokenizer:
    """Text to token ids and back.

    vocab_size: ids are 0 to vocab_size - 1. bos_id: what begins a text, or None; add_bos: the model wants it there.
    eos_ids: all ids that end a text. special_tokens: id by text; special_ids: the same ids. chat_template: the file's
    jinja template, or None.
    """

    def __init__(self, vocabulary: Vocabulary, where: str) -> None:
        self._vocabulary = vocabulary
        self._where = where
        self._pieces: dict[int, bytes] = {}
        self._plain = vocabulary.assemble(where)
        self._plain.encode_special_tokens = True
        self.vocab_size = vocabulary.vocab_size
        self.bos_id = vocabulary.bos_id
        self.add_bos = vocabulary.add_bos
        self.eos_ids = vocabulary.eos_ids
        self.unknown_id = vocabulary.unknown_id
        self.chat_template = vocabulary.chat_template
        self.special_tokens = {token.content: i for i, token in vocabulary.added.items() if token.special}
        self.special_ids = frozenset(self.special_tokens.values())

    @classmethod
    def from_source(cls, source: Path | NamedFiles | Mapping[str, object]) -> Tokenizer:
        """From a Hugging Face folder, its files, or a GGUF file's metadata. Raises FormatError, Unsupported."""
        if isinstance(source, NamedFiles):
            return cls.from_files(source)
        return cls.from_gguf(source) if isinstance(source, Mapping) else cls.from_folder(source)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """From a Hugging Face folder: tokenizer.json and, where they exist, tokenizer_config.json,
        generation_config.json, config.json and chat_template.jinja. Raises FormatError, Unsupported."""
        return cls.from_files(FilesOfFolder(Path(folder)))

    @classmethod
    def from_files(cls, files: NamedFiles) -> Tokenizer:
        """The same, of files that need not lie in a folder."""
        from .tokenizer_hf import vocabulary_from_files

        return cls(vocabulary_from_files(files), "tokenizer.json")

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, object], where: str = "gguf") -> Tokenizer:
        """From a GGUF file's metadata; `where` names the file in errors. Raises FormatError, Unsupported."""
        from .tokenizer_gguf import vocabulary_from_gguf

        return cls(vocabulary_from_gguf(metadata, where), where)

    def encode(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text of at most 64 MiB.

        add_bos: begin with bos_id, if the model wants it and the text's own first token isn't it. parse_special: a
        special token's text, such as "<|im_end|>", becomes that token; otherwise it is text like any other. A character
        that the vocabulary can't spell is left out, as in the models' own tokenizers.
        Raises ParameterError for lone surrogates, for text that is too long, and (some vocabularies merge plain text
        into a special token) for text that can't be written without a special token.
        """
        check_text(text)
        library = self._special if parse_special else self._plain
        ids: list[int] = []
        with library_errors(self._where, "a tokenizer that can encode"):
            if self._vocabulary.cut is not None:
                ids += self._vocabulary.cut(text)
            else:
                for part in cuts(text, library):
                    ids += library.encode(part, add_special_tokens=False).ids
        if not parse_special:
            self._check_plain(ids)
        if add_bos and self.add_bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD. skip_special leaves special tokens out.

        Raises ParameterError that names the position of an id outside of the vocabulary.
        """
        stream = self.stream(skip_special=skip_special)
        return "".join([*map(stream.put, ids), stream.finish()])

    def stream(self, *, skip_special: bool = True) -> TextStream:
        """Decodes ids as they come: `put(id)` and `finish()` return the text that became certain."""
        skipped = self.special_ids if skip_special else frozenset()

        def piece(token_id: int, position: int) -> bytes:
            token_id = self._checked_id(token_id, f"token_ids[{position}]")
            return b"" if token_id in skipped else self._piece(token_id)

        return TextStream(piece, self._vocabulary.spelling.drop_first_space)

    def id_to_token(self, token_id: int) -> str:
        """The token as its file writes it, "" for an unused id. Raises ParameterError outside of the vocabulary."""
        return self._plain.id_to_token(self._checked_id(token_id, "token_id")) or ""

    def token_text(self, token_id: int) -> str:
        """The text that a token stands for by itself; bytes that are no UTF-8 become U+FFFD.

        Raises ParameterError outside of the vocabulary.
        """
        return self._piece(self._checked_id(token_id, "token_id")).decode("utf-8", "replace")

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as its file writes it, None if there is no such token."""
        return self._plain.token_to_id(token)

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches the text of any special token, the longest if several begin at one place."""
        texts = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")

    @cached_property
    def _special(self) -> Library:
        return self._vocabulary.assemble(self._where)

    def _piece(self, token_id: int) -> bytes:
        """The bytes that an id stands for."""
        piece = self._pieces.get(token_id)
        if piece is None:
            added = self._vocabulary.added.get(token_id)
            token = self.id_to_token(token_id)
            piece = added.content.encode() if added else self._vocabulary.spelling.piece(token)
            self._pieces[token_id] = piece
        return piece

    def _checked_id(self, token_id: int, where: str) -> int:
        try:
            index = operator.index(token_id)  # numpy's integers too
        except TypeError:
            index = -1
        if not 0 <= index < self.vocab_size:
            expected = f"an id from 0 to {self.vocab_size - 1} (vocab_size {self.vocab_size})"
            raise ParameterError(where, expected=expected, found=shown(token_id))
        return index

    def _check_plain(self, ids: list[int]) -> None:
        """A special token that plain text turned into would let a user speak for the system."""
        for token_id in self.special_ids.intersection(ids) - {self.unknown_id}:
            expected = "text that can be written without a special token"
            raise ParameterError("prompt", expected=expected, found=shown(self.id_to_token(token_id)))


def check_text(text: object, where: str = "prompt") -> None:
    """Raises ParameterError for what is no string, no Unicode, or too long."""
    if not isinstance(text, str):
        raise ParameterError(where, expected="a string", found=shown(text))
    try:
        n_bytes = len(text.encode()) if len(text) <= _MAX_TEXT_BYTES else len(text)
    except UnicodeEncodeError as error:
        found = f"the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}"
        raise ParameterError(where, expected="Unicode text", found=found) from None
    if n_bytes > _MAX_TEXT_BYTES:
        expected = f"at most {_MAX_TEXT_BYTES} bytes of UTF-8"
        raise ParameterError(where, expected=expected, found=f"{n_bytes} or more")
