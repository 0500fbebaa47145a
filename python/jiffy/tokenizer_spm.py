"""SentencePiece's own files (.spm, .model), as far as they are unigram models (Kudo 2018).

The file is a protocol buffer (sentencepiece_model.proto), of which a small reader here takes what is needed: the pieces
with their scores and types, the kind of model, and how text is normalised.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .charsmap import CharsMap
from .errors import FormatError, Unsupported
from .files import open_file
from .spelling import SPACE, sentencepiece
from .vocabulary import MAX_VOCAB, Vocabulary, added_token, library_errors

_MAX_BYTES = 1 << 26
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_UNIGRAM = 1


@dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    kind: int


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


def vocabulary_from_spm(path: Path) -> Vocabulary:
    """The tokenizer of a file: what the library sentencepiece makes of a text, and its ids. Raises FormatError for
    damage, Unsupported for models that aren't unigram."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import Metaspace

    with open_file(path) as file:
        raw = file.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise FormatError(path.name, expected=f"at most {_MAX_BYTES} bytes", found="more")
    model = _Message(memoryview(raw), path.name)
    pieces = [_Piece(one.text(1), one.number(2), one.integer(3, _NORMAL)) for one in model.messages(1)]
    trainer = next(model.messages(2), _Message(memoryview(b""), path.name))
    if trainer.integer(3, _UNIGRAM) != _UNIGRAM:
        raise Unsupported(f"{path.name} model_type", expected="unigram", found=str(trainer.integer(3, _UNIGRAM)))
    if not 0 < len(pieces) <= MAX_VOCAB:
        raise FormatError(f"{path.name} pieces", expected=f"1 to {MAX_VOCAB}", found=str(len(pieces)))
    unknown = next((i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN), None)
    if unknown is None:
        raise FormatError(f"{path.name} pieces", expected="one for what is unknown", found="none")
    byte_fallback = any(piece.kind == _BYTE for piece in pieces)
    with library_errors(path.name, "pieces that build a tokenizer"):
        library = Library(Unigram([(p.text, p.score) for p in pieces], unknown, byte_fallback))
        split = not any(SPACE in piece.text[1:] for piece in pieces)
        library.pre_tokenizer = Metaspace(prepend_scheme="never", split=split)
    spec = next(model.messages(3), _Message(memoryview(b""), path.name))
    prepare = _Preparation(spec, pieces, path.name)
    return Vocabulary(
        library=library,
        added=_added(pieces),
        spelling=sentencepiece(byte_tokens=byte_fallback, drop_first_space=prepare.adds_space),
        vocab_size=len(pieces),
        bos_id=None,
        add_bos=False,
        eos_ids=tuple(i for i, piece in enumerate(pieces) if piece.text == "</s>"),
        chat_template=None,
        unknown_id=unknown,
        prepare=prepare,
    )


def _added(pieces: list[_Piece]):
    """Pieces that no text is cut into by scores."""
    kinds = (_UNKNOWN, _CONTROL, _USER_DEFINED)
    return {
        i: added_token(piece.text, special=piece.kind != _USER_DEFINED, normalized=False)
        for i, piece in enumerate(pieces)
        if piece.kind in kinds and piece.text
    }


class _Preparation:
    """A text as the pieces see it: characters replaced, spaces visible. NormalizerSpec says how: a table of characters
    (2), a space in front of a text (3), no superfluous spaces (4); that spaces are visible (5) is so in all models.

    What spells a piece that no text becomes ("</s>") is cut in two.
    """

    def __init__(self, spec: _Message, pieces: list[_Piece], where: str) -> None:
        self._replaced = CharsMap(spec.raw(2), f"{where} precompiled_charsmap") if spec.raw(2) else str
        self.adds_space = bool(spec.integer(3, 1))
        self._trims = bool(spec.integer(4, 1))
        silent = (re.escape(p.text) for p in pieces if p.kind in (_UNKNOWN, _CONTROL, _UNUSED) and len(p.text) > 1)
        self._silent = re.compile("|".join(silent) or r"(?!)")

    def __call__(self, text: str) -> list[str]:
        text = self._replaced(text)
        if self._trims:
            text = re.sub(" +", " ", text).strip(" ")
        if not text:
            return []
        text = (" " * self.adds_space + text).replace(" ", SPACE)
        cuts = [match.start() + 1 for match in self._silent.finditer(text)]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
