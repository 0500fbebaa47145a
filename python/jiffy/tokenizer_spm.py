"""SentencePiece's own files (.spm, .model), as far as they are unigram models (Kudo 2018).

The file is a protocol buffer (sentencepiece_model.proto), of which a small reader here takes what is needed: the pieces
with their scores and types, the kind of model, and how text is normalised.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .charsmap import CharsMap
from .errors import FormatError, Unsupported
from .named_files import NamedFiles
from .spelling import sentencepiece
from .unigram import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece, Unigram
from .vocabulary import MAX_VOCAB, Vocabulary, added_token, library_errors

if TYPE_CHECKING:
    from tokenizers import AddedToken

_MAX_BYTES = 1 << 26
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_UNIGRAM = 1


class _Message:
    """The fields of a protocol buffer's message: a list of values for each number. Raises FormatError."""

    def __init__(self, raw: memoryview, where: str) -> None:
        self._where = where
        self._fields: dict[int, list[int | memoryview]] = {}
        for number, value in self._read(raw):
            self._fields.setdefault(number, []).append(value)

    def messages(self, number: int) -> Iterator[_Message]:
        for value in self._fields.get(number, []):
            yield _Message(self._bytes(value), self._where)

    def text(self, number: int) -> str:
        try:
            return bytes(self._bytes(self._last(number, memoryview(b"")))).decode()
        except UnicodeDecodeError:
            raise self._error("UTF-8") from None

    def raw(self, number: int) -> bytes:
        return bytes(self._bytes(self._last(number, memoryview(b""))))

    def integer(self, number: int, default: int) -> int:
        value = self._last(number, default)
        if not isinstance(value, int):
            raise self._error(f"an integer in field {number}")
        return value

    def number(self, number: int) -> float:
        return struct.unpack("<f", struct.pack("<I", self.integer(number, 0) & 0xFFFFFFFF))[0]

    def _last(self, number: int, default):
        return self._fields.get(number, [default])[-1]

    def _bytes(self, value: int | memoryview) -> memoryview:
        if isinstance(value, int):
            raise self._error("bytes in the place of a number")
        return value

    def _read(self, raw: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        at = 0
        while at < len(raw):
            key, at = self._varint(raw, at)
            if key & 7 == _VARINT:
                value, at = self._varint(raw, at)
            else:
                n = {_FIXED64: 8, _FIXED32: 4}.get(key & 7)
                if key & 7 == _BYTES:
                    n, at = self._varint(raw, at)
                if n is None or n > len(raw) - at:
                    raise self._error("fields that end within their message")
                value = raw[at : at + n]
                at += n
                if key & 7 != _BYTES:
                    value = int.from_bytes(value, "little")
            yield key >> 3, value

    def _varint(self, raw: memoryview, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(raw):
                break
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise self._error("a number of at most ten bytes")

    def _error(self, expected: str) -> FormatError:
        return FormatError(self._where, expected=expected, found="something else")


def vocabulary_from_spm(files: NamedFiles, name: str, ids: dict[str, int] | None = None) -> Vocabulary:
    """The tokenizer of a file: what the library sentencepiece makes of a text, and its ids. ids: those of a model that
    numbers the pieces anew, and may have more tokens. Raises FormatError for damage, Unsupported for models that aren't
    unigram."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import WordLevel

    model = _Message(memoryview(files.read(name, _MAX_BYTES)), name)
    pieces = [Piece(one.text(1), one.number(2), one.integer(3, NORMAL)) for one in model.messages(1)]
    nothing = _Message(memoryview(b""), name)
    kind = next(model.messages(2), nothing).integer(3, _UNIGRAM)
    if kind != _UNIGRAM:
        raise Unsupported(f"{name} model_type", expected="unigram", found=str(kind))
    if not 0 < len(pieces) <= MAX_VOCAB:
        raise FormatError(f"{name} pieces", expected=f"1 to {MAX_VOCAB}", found=str(len(pieces)))
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN), None)
    if unknown is None:
        raise FormatError(f"{name} pieces", expected="one for what is unknown", found="none")
    byte_tokens = any(piece.kind == BYTE for piece in pieces)
    cut = _unigram(pieces, next(model.messages(3), nothing), name)
    with library_errors(name, "pieces that build a tokenizer"):
        own = {piece.text: i for i, piece in enumerate(pieces)} if ids is None else ids
        library = Library(WordLevel(own, pieces[unknown].text))
    if ids is not None:
        unknown = ids.get(pieces[unknown].text)
        if unknown is None:
            raise FormatError("vocab.json", expected="an id for what is unknown", found="none")
        cut = _Renumbered(cut, [ids.get(piece.text, unknown) for piece in pieces])
    return Vocabulary(
        library=library,
        added=_added(pieces, own),
        spelling=sentencepiece(byte_tokens=byte_tokens, drop_first_space=cut.adds_space),
        vocab_size=max(own.values()) + 1,
        bos_id=None,
        add_bos=False,
        eos_ids=(own["</s>"],) if "</s>" in own else (),
        chat_template=None,
        unknown_id=unknown,
        cut=cut,
    )


class _Renumbered:
    """The ids of another numbering."""

    def __init__(self, cut: Unigram, ids: list[int]) -> None:
        self.adds_space = cut.adds_space
        self._cut, self._ids = cut, ids

    def __call__(self, text: str) -> list[int]:
        return [self._ids[i] for i in self._cut(text)]


def _unigram(pieces: list[Piece], spec: _Message, where: str) -> Unigram:
    """NormalizerSpec: a table of characters (2), a space in front of a text (3), no superfluous spaces (4)."""
    table = spec.raw(2)
    replaced = CharsMap(table, f"{where} precompiled_charsmap") if table else str
    return Unigram(pieces, replaced, adds_space=bool(spec.integer(3, 1)), trims=bool(spec.integer(4, 1)))


def _added(pieces: list[Piece], ids: dict[str, int]) -> dict[int, AddedToken]:
    """Pieces that no text is cut into by scores, in the order of their ids."""
    kinds = (UNKNOWN, CONTROL, USER_DEFINED)
    found = {
        ids[piece.text]: added_token(piece.text, special=piece.kind != USER_DEFINED, normalized=False)
        for piece in pieces
        if piece.kind in kinds and piece.text in ids and piece.text
    }
    return dict(sorted(found.items()))
