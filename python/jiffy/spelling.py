"""What bytes a token stands for, and text out of token ids, one at a time."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import Unsupported, shown

SPACE = "\u2581"  # SentencePiece's visible space

_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Spelling:
    """piece: a token's own text to the bytes that it stands for. drop_first_space: a text loses its first space."""

    piece: Callable[[str], bytes]
    drop_first_space: bool = False


class TextStream:
    """Text from token ids as they come. What `put` and `finish` return, joined, is `Tokenizer.decode` of all the ids.

    A character whose bytes are spread over tokens is held back until it is whole; bytes that can never become a
    character turn into U+FFFD, as the Unicode standard recommends (one for every maximal part). An id costs the same
    however many came before it.
    """

    def __init__(self, piece: Callable[[int, int], bytes], drop_first_space: bool) -> None:
        """piece(token_id, position): the bytes of an id, or an error that names the position."""
        self._piece = piece
        self._drops = drop_first_space
        self._drop_next = drop_first_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._position = 0

    def put(self, token_id: int) -> str:
        """The text that this id completes, often "". Raises ParameterError for an id outside of the vocabulary."""
        piece = self._piece(token_id, self._position)
        self._position += 1
        if self._drop_next and piece:
            piece = piece.removeprefix(b" ")
            self._drop_next = False
        return self._utf8.decode(piece)

    def finish(self) -> str:
        """The end of the text: U+FFFD if half a character is held back, else "". The next id begins a new text."""
        tail = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._drop_next = self._drops
        self._position = 0
        return tail


def byte_level() -> Spelling:
    """GPT-2's way: a character of a token stands for a byte."""
    bytes_of = {char: byte for byte, char in byte_alphabet().items()}
    return Spelling(lambda token: b"".join(_byte_or_utf8(char, bytes_of) for char in token))


def byte_alphabet() -> dict[int, str]:
    """Byte to character: printable latin-1 stands for itself, the others follow from U+0100 in order (GPT-2)."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = (byte for byte in range(256) if byte not in itself)
    return {byte: chr(byte) for byte in itself} | {byte: chr(0x100 + n) for n, byte in enumerate(moved)}


def sentencepiece(*, byte_tokens: bool, drop_first_space: bool) -> Spelling:
    """SentencePiece's way: U+2581 is a space and, with byte_tokens, <0x0A> is the byte 10."""

    def piece(token: str) -> bytes:
        match = _BYTE_TOKEN.fullmatch(token) if byte_tokens else None
        return bytes.fromhex(match[1]) if match else token.replace(SPACE, " ").encode()

    return Spelling(piece, drop_first_space)


def from_decoder(decoder: dict[str, object] | None) -> Spelling:
    """The spelling that a "decoder" of a Hugging Face tokenizer.json describes; Unsupported for rarer ones."""
    steps = decoder.get("decoders") if decoder and decoder.get("type") == "Sequence" else [decoder or {"type": None}]
    kinds = {step["type"]: step for step in steps}
    if list(kinds) == ["ByteLevel"]:
        return byte_level()
    if list(kinds) == ["Metaspace"] and kinds["Metaspace"]["replacement"] == SPACE:
        return sentencepiece(byte_tokens=False, drop_first_space=kinds["Metaspace"]["prepend_scheme"] != "never")
    if "Replace" in kinds and kinds.keys() <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        first_space = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        if kinds["Replace"] == spaces and kinds.get("Strip", first_space) == first_space:
            return sentencepiece(byte_tokens="ByteFallback" in kinds, drop_first_space="Strip" in kinds)
    expected = "a byte-level, Metaspace or SentencePiece decoder"
    raise Unsupported("tokenizer.json decoder", expected=expected, found=shown(", ".join(map(str, kinds))))


def _byte_or_utf8(char: str, bytes_of: dict[str, int]) -> bytes:
    """A character outside of the alphabet can stand in a token that was never trained; it stands for itself."""
    byte = bytes_of.get(char)
    return char.encode() if byte is None else bytes((byte,))
