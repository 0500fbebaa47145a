"""Static vectors: a text's vector is the mean of the rows of its words or tokens, looked up in a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .arguments import integer, one_of, raises, truncates
from .encoder_texts import Text
from .errors import ContextOverflow, Error, FormatError, ParameterError, shown
from .graph import Trace
from .models.heads import embedding
from .results import Results
from .sentence_config import Embedding
from .static_files import read_static
from .tokenizer import check_text
from .vocabulary import library_errors, read_library

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

MAX_TOKENS = 1 << 20  # of a text: their rows are in memory together
BATCH_TOKENS = 8192  # of a step: there is little to do for each (512: 60 % slower)
_PARTS = re.compile(r"\w+|[^\w\s]")
_KEPT_WORDS, _KEPT_CHARACTERS = 1 << 16, 64


class StaticVectors:
    """Loaded static vectors; a text's vector has the same bits in whatever company.

    Words are looked up as they are written, else in lower case, else in their parts: letters and digits, and single
    signs. What the file doesn't know is left out, and a text of which nothing is left gets zeros.
    """

    def __init__(self, path: Path, n_threads: int | None = None, isa: str | None = None) -> None:
        """Raises FormatError, Unsupported, ParameterError, OutOfMemory."""
        if n_threads is not None:
            integer("n_threads", n_threads, 1, 1024)
        one_of("isa", isa, [None, *_core.isas()])
        table = read_static(path)
        self.path = path
        self.rows: np.ndarray = table.rows
        if table.words is not None:
            self._ids_of = _WordIds(table.words)
        else:
            self._ids_of = _TokenIds(table.tokenizer or b"", len(table.rows), str(path))
        self._isa = isa or _core.isas()[-1]
        self._pool = _core.ThreadPool(n_threads or _core.cpu_info().default_threads)
        self._programs: dict[tuple[str, bool], _core.Encoder] = {}

    @property
    def dim(self) -> int:
        return self.rows.shape[1]

    def encode(
        self, texts: str | Sequence[str], *, pooling: str | None = None, normalize: bool | None = None
    ) -> np.ndarray:
        """The vector of a text, float32 [dim]; of a list of them [n, dim].

        pooling: "mean", "first", "last" or "max" of the rows; None is the mean. normalize: whether to length 1; None:
        not. Raises ParameterError, ContextOverflow.
        """
        given = [texts] if isinstance(texts, str) else texts
        rows = list(self.embeddings(given, pooling=pooling, normalize=normalize))
        if isinstance(texts, str):
            return rows[0]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def embeddings(
        self,
        texts: Iterable[Text],
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        overflow: str = "error",
        errors: str = "raise",
    ) -> Results:
        """The vectors of any number of texts, one after the other; `jiffy.Encoder.embeddings` says the rest."""
        native = self._native(*Embedding().chosen(pooling, normalize))
        return Results(texts, partial(self._vectors, native, truncates(overflow)), raises(errors))

    def info(self) -> dict[str, object]:
        """What is loaded."""
        return {
            "path": str(self.path),
            "architecture": "static vectors",
            "rows": len(self.rows),
            "dim": self.dim,
            "bytes": self.rows.nbytes,
            "threads": self._pool.size,
            "isa": self._isa,
        }

    def _native(self, pooling: str, normalize: bool) -> _core.Encoder:
        if (pooling, normalize) not in self._programs:
            trace = Trace()
            table = trace.embedding(self.rows)
            result = embedding(trace, lambda _, keep: keep(table), pooling, normalize)
            self._programs[pooling, normalize] = _core.Encoder(
                trace.build(result, MAX_TOKENS),
                self._pool,
                isa=self._isa,
                context=MAX_TOKENS,
                batch_tokens=BATCH_TOKENS,
            )
        return self._programs[pooling, normalize]

    def _vectors(self, native: _core.Encoder, truncate: bool, texts: list[Text]) -> list[np.ndarray | Error]:
        rows = np.zeros((len(texts), self.dim), np.float32)
        found: list[np.ndarray | Error] = [_problem(text) or row for text, row in zip(texts, rows, strict=True)]
        good = [i for i, one in enumerate(found) if not isinstance(one, Error)]
        known, ids = [], []
        for i, some in zip(good, self._ids_of([texts[i] for i in good]), strict=True):
            if len(some) > MAX_TOKENS and not truncate:
                expected = f'at most {MAX_TOKENS} tokens, or overflow="truncate"'
                found[i] = ContextOverflow("text", expected=expected, found=str(len(some)))
            elif some:
                known.append(i)
                ids.append(some[:MAX_TOKENS])
        if known:
            lengths = np.fromiter(map(len, ids), np.int64, len(ids))
            rows[known] = native.run(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths)
        return found


class _WordIds:
    """Texts to numbers of rows, by words."""

    def __init__(self, words: list[str]) -> None:
        self._rows = {word: i for i, word in enumerate(words)}
        self._of_word = _kept(self._look_up)

    def __call__(self, texts: list[str]) -> list[list[int]]:
        return [list(chain.from_iterable(map(self._of_word, text.split()))) for text in texts]

    def _look_up(self, word: str) -> tuple[int, ...]:
        whole = self._row(word)
        if whole is not None:
            return (whole,)
        return tuple(row for row in map(self._row, _PARTS.findall(word)) if row is not None)

    def _row(self, word: str) -> int | None:
        row = self._rows.get(word)
        return self._rows.get(word.lower()) if row is None else row


class _TokenIds:
    """Texts to numbers of rows, by tokens."""

    def __init__(self, tokenizer: bytes, n_rows: int, where: str) -> None:
        self._where = f"{where} tokenizer"
        with library_errors(self._where, "a tokenizer of the tokenizers library"):
            self._library = read_library(tokenizer, self._where)
            self._library.encode_special_tokens = True
            largest = max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)
            self._unknown = unknown_id(self._library)
            spaced = _cuts_at_spaces(self._library)
        self._of_word = _kept(lambda word: tuple(self._encoded([word])[0])) if spaced else None
        if largest >= n_rows:
            raise FormatError(self._where, expected=f"ids below the {n_rows} rows", found=str(largest))

    def __call__(self, texts: list[str]) -> list[list[int]]:
        if self._of_word is None:
            return self._encoded(texts)
        return [list(chain.from_iterable(map(self._of_word, text.split(" ")))) for text in texts]

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        with library_errors(self._where, "a tokenizer that can encode"):
            encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
        if self._unknown is None:
            return found
        return [[i for i in ids if i != self._unknown] if self._unknown in ids else ids for ids in found]


def _kept(look_up: Callable[[str], tuple[int, ...]]) -> Callable[[str], tuple[int, ...]]:
    """The same, which remembers words that aren't long."""
    remembered = lru_cache(maxsize=_KEPT_WORDS)(look_up)
    return lambda word: remembered(word) if len(word) <= _KEPT_CHARACTERS else look_up(word)


def _cuts_at_spaces(library: Library) -> bool:
    """Whether a text's tokens are those of its words, one after the other: it is cut as BERT does, and the vocabulary
    has nothing that is found before that."""
    parts = type(library.normalizer).__name__, type(library.pre_tokenizer).__name__
    added = library.get_added_tokens_decoder().values()
    return parts == ("BertNormalizer", "BertPreTokenizer") and all(token.special for token in added)


def unknown_id(library: Library) -> int | None:
    """What a text that has no token turns into."""
    token = getattr(library.model, "unk_token", None)
    return getattr(library.model, "unk_id", None) if token is None else library.token_to_id(token)


def _problem(text: object) -> Error | None:
    if isinstance(text, tuple):
        return ParameterError("text", expected="a string", found=shown(text))
    try:
        check_text(text, "text")
    except ParameterError as error:
        return error
    return None
