"""A tokenizer out of GGUF metadata (the keys `tokenizer.ggml.*` of the GGUF specification)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE
from tokenizers.normalizers import Prepend, Replace
from tokenizers.normalizers import Sequence as Normalizers

from .errors import FormatError, Unsupported, shown
from .fields import Fields
from .pre_tokenizers import PRE_TOKENIZERS
from .spelling import SPACE, Spelling, byte_level, sentencepiece
from .vocabulary import MAX_VOCAB, Vocabulary, added_token, library_errors

_PREFIX = "tokenizer.ggml"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_MAX_PIECE_CHARS = 512  # all ways to cut a piece in two are tried; the longest known pieces are 128 spaces


def vocabulary_from_gguf(metadata: Mapping[str, object], where: str) -> Vocabulary:
    """Raises FormatError that begins with `where` and the key, Unsupported for other kinds of tokenizer."""
    fields = Fields(metadata, where)
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    model = fields.text(f"{_PREFIX}.model")
    if model not in builders:
        expected = f"one of {', '.join(builders)}"
        raise Unsupported(fields.place(f"{_PREFIX}.model"), expected=expected, found=shown(model))
    tokens = _Tokens(fields)
    library, spelling, bos_by_default = builders[model](fields, tokens)
    bos_ids = fields.ids(f"{_PREFIX}.bos_token_id", len(tokens.texts))[:1]
    add_bos = fields.boolean(f"{_PREFIX}.add_bos_token", default=bos_by_default and bool(bos_ids))
    if add_bos and not bos_ids:
        raise fields.error(f"{_PREFIX}.bos_token_id", "a token id, since add_bos_token is true", None)
    eos_ids = [fields.ids(f"{_PREFIX}.{kind}_token_id", len(tokens.texts)) for kind in ("eos", "eot", "eom")]
    template = fields.get("tokenizer.chat_template")
    return Vocabulary(
        library=library,
        added=tokens.added(),
        spelling=spelling,
        vocab_size=len(tokens.texts),
        bos_id=bos_ids[0] if bos_ids else None,
        add_bos=add_bos,
        eos_ids=tuple(dict.fromkeys(one for ids in eos_ids for one in ids)),
        chat_template=None if template is None else fields.text("tokenizer.chat_template"),
    )


class _Tokens:
    """texts: by id. types: by id. ids: by text."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.texts = _strings(fields, f"{_PREFIX}.tokens")
        if not 0 < len(self.texts) <= MAX_VOCAB:
            raise fields.error(f"{_PREFIX}.tokens", f"1 to {MAX_VOCAB} tokens", self.texts)
        self.types = self._types()
        # A text may be empty (a row that nothing uses), and then it is no token that text could become.
        self.ids = {text: token_id for token_id, text in enumerate(self.texts) if text}
        if len(self.ids) < len(self.texts) - self.texts.count(""):
            self._refuse_twins()

    def added(self) -> dict[int, AddedToken]:
        """Tokens of the types unknown, control and user-defined, by id."""
        return {
            token_id: added_token(self.texts[token_id], special=kind != _USER_DEFINED, normalized=False)
            for token_id, kind in enumerate(self.types)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED) and self.texts[token_id]
        }

    def of_type(self, wanted: int) -> dict[str, int]:
        return {text: token_id for text, token_id in self.ids.items() if self.types[token_id] == wanted}

    def _types(self) -> list[int]:
        key = f"{_PREFIX}.token_type"
        if self._fields.get(key) is None:
            return [_NORMAL] * len(self.texts)
        types = _numbers(self._fields, key, len(self.texts), "iu").tolist()
        for token_id, kind in enumerate(types):
            if not _NORMAL <= kind <= _BYTE:
                raise self._fields.error(f"{key}[{token_id}]", "a token type from 1 to 6", kind)
        return types

    def _refuse_twins(self) -> None:
        for token_id, text in enumerate(self.texts):
            if text and self.ids[text] != token_id:
                place = self._fields.place(f"{_PREFIX}.tokens[{token_id}]")
                found = f"{shown(text)}, token {self.ids[text]} too"
                raise FormatError(place, expected="every token once", found=found)


def _byte_level(fields: Fields, tokens: _Tokens) -> tuple[Library, Spelling, bool]:
    """GPT-2's byte-level BPE: the library's tokenizer, its spelling, and whether a text begins with BOS by default."""
    key = f"{_PREFIX}.pre"
    name = fields.text(key, default="default")
    if name not in PRE_TOKENIZERS:
        raise Unsupported(fields.place(key), expected=f"one of {', '.join(PRE_TOKENIZERS)}", found=shown(name))
    pre = PRE_TOKENIZERS[name]
    merges = _merges_in_file(fields, tokens.ids)
    with library_errors(fields.place(f"{_PREFIX}.merges"), "merges that build a tokenizer"):
        library = Library(BPE(tokens.ids, merges, ignore_merges=pre.ignore_merges))
    library.pre_tokenizer = pre.build()
    return library, byte_level(), pre.add_bos


def _sentencepiece(fields: Fields, tokens: _Tokens) -> tuple[Library, Spelling, bool]:
    """SentencePiece's BPE with byte fallback; which pair to merge next is said by scores, not by a list of merges."""
    scores = _numbers(fields, f"{_PREFIX}.scores", len(tokens.texts), "f")
    if not np.isfinite(scores).all():
        raise fields.error(f"{_PREFIX}.scores", "finite numbers", float(scores[~np.isfinite(scores)][0]))
    for byte in range(256):
        if tokens.ids.get(f"<0x{byte:02X}>") is None:
            raise fields.error(f"{_PREFIX}.tokens", f"a token for every byte, <0x{byte:02X}> too", tokens.texts)
    merges = _merges_by_score(fields, tokens.of_type(_NORMAL), scores.tolist())
    with library_errors(fields.place(f"{_PREFIX}.scores"), "scores that build a tokenizer"):
        library = Library(BPE(tokens.ids, merges, byte_fallback=True))
    prefix = fields.boolean(f"{_PREFIX}.add_space_prefix", default=True)
    library.normalizer = Normalizers([*([Prepend(SPACE)] if prefix else []), Replace(" ", SPACE)])
    return library, sentencepiece(byte_tokens=True, drop_first_space=prefix), True


def _merges_in_file(fields: Fields, ids: dict[str, int]) -> list[tuple[str, str]]:
    """The merges in their order; a file may leave them out."""
    pairs = []
    listed = fields.get(f"{_PREFIX}.merges") is not None
    for index, merge in enumerate(_strings(fields, f"{_PREFIX}.merges") if listed else ()):
        left, _, right = merge.partition(" ")
        if left not in ids or right not in ids or left + right not in ids:
            key = f"{_PREFIX}.merges[{index}]"
            raise fields.error(key, 'two tokens, "left right", that make up a third one', merge)
        pairs.append((left, right))
    return pairs


def _merges_by_score(fields: Fields, pieces: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, best score first; ties in the order of the ids."""
    ranked = []
    for text, token_id in pieces.items():
        if len(text) > _MAX_PIECE_CHARS:
            key = f"{_PREFIX}.tokens[{token_id}]"
            raise fields.error(key, f"at most {_MAX_PIECE_CHARS} characters", text)
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in pieces and right in pieces:
                ranked.append((-scores[token_id], token_id, pieces[left], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _strings(fields: Fields, key: str) -> list[str]:
    values = fields.get(key)
    if not isinstance(values, list) or not all(type(value) is str for value in values):
        raise fields.error(key, "an array of strings", values)
    return values


def _numbers(fields: Fields, key: str, count: int, kinds: str) -> np.ndarray:
    """A numeric array whose numpy kind is one of `kinds`, with a number for every token."""
    values = fields.get(key)
    if isinstance(values, list) and all(type(value) in (int, float) for value in values):
        values = np.array(values)
    array = values if isinstance(values, np.ndarray) else np.empty(0, "O")
    if array.dtype.kind not in kinds or array.shape != (count,):
        raise fields.error(key, f"an array of {count} numbers, one for every token", values)
    return array
