"""An encoder: loaded, asked for embeddings, hidden rows and the scores of its head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .arguments import raises, truncates
from .encoder_texts import Text, TextReader, Tokens
from .errors import ContextOverflow, Error, FormatError, ParameterError, Unsupported, shown
from .models.programs import HEAD, HIDDEN, embedding_name
from .results import Results

if TYPE_CHECKING:
    from .encoder_config import EncoderConfig
    from .graph import Trace
    from .prepared import Prepared
    from .sentence_config import Embedding

BATCH_TOKENS = 256  # of a step: its rows stay in the L2 and L3 caches (BERT-base, i8: 512 6 % slower, 2048 15 %)


@dataclass(frozen=True)
class TokenScores:
    """A text, its tokens, and what a head says of each: float32 [n_tokens, labels]."""

    text: Text
    tokens: Tokens
    scores: np.ndarray


class Encoder:
    """A loaded encoder. Nothing is ever padded, and a text's numbers are the same bits in whatever company.

    config: its shape. embedding: how embeddings are made of hidden rows where nobody says otherwise.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.path = prepared.path
        self.config: EncoderConfig = prepared.config
        self.embedding: Embedding = self.config.embedding
        self.reader: TextReader = prepared.reader
        self._prepared, self._loading = prepared, prepared.loading
        self._programs: dict[str, _core.Encoder] = {}

    def encode(
        self,
        texts: Text | Sequence[Text],
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        overflow: str = "error",
    ) -> np.ndarray:
        """The embedding of a text (or a pair of texts, as a tuple), float32 [dim]; of a list of them [n, dim].

        pooling: how a text's hidden rows become one: "mean", "first", "last", "max"; normalize: whether to length 1;
        None: as the model's files say, else the mean as it is. overflow: "error", or "truncate" to leave out the end of
        a text that is longer than the context. Raises ParameterError, ContextOverflow.
        """
        if isinstance(texts, (str, tuple)):
            return self._all(self.embeddings([texts], pooling=pooling, normalize=normalize, overflow=overflow))[0]
        return self._all(self.embeddings(texts, pooling=pooling, normalize=normalize, overflow=overflow))

    def embeddings(
        self,
        texts: Iterable[Text],
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        overflow: str = "error",
        errors: str = "raise",
    ) -> Results:
        """The embeddings of any number of texts, one after the other; only a few hundred texts are in memory at once.

        errors: "raise" what is wrong with a text at its turn, after which the iterator goes on with the next text, or
        "return" it in the place of its embedding.
        """
        native = self._native(embedding_name(*self.embedding.chosen(pooling, normalize)))
        return self._results(texts, native, lambda _, __, rows: rows[0], overflow=overflow, errors=errors)

    def hidden_states(self, text: Text | None = None, *, token_ids: list[int] | None = None) -> np.ndarray:
        """float32 [n_tokens, dim]: the last layer's row of each token of a text, or of token ids as they are."""
        return self._rows_of(self._native(HIDDEN), text, token_ids)

    def scores(self, text: Text | None = None, *, token_ids: list[int] | None = None) -> np.ndarray:
        """float32: what the head says of a text, or of token ids, before any softmax: [1, labels] of a sequence, else
        [n_tokens, labels], (start, end) or [n_tokens, vocab_size] of a masked language model.

        Raises Unsupported for a checkpoint without a head."""
        return self._rows_of(self._head(), text, token_ids)

    def sequence_scores(self, texts: Iterable[Text], *, overflow: str = "error", errors: str = "raise") -> Results:
        """`scores` [labels] of any number of texts by a "sequence" head, as `embeddings` gives them."""
        self.needs_head("sequence")
        native = self._head()
        return self._results(texts, native, lambda _, __, rows: rows[0], overflow=overflow, errors=errors)

    def token_scores(self, texts: Iterable[Text], *, overflow: str = "error", errors: str = "raise") -> Results:
        """TokenScores of any number of texts by a "token" head, as `embeddings` gives embeddings."""
        self.needs_head("token")
        return self._results(texts, self._head(), TokenScores, overflow=overflow, errors=errors)

    def window_scores(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """`scores` of texts that are tokens already. Raises FormatError where they are no numbers."""
        outcome = self._outcomes([""] * len(tokens), list(tokens), self._head(), lambda _, __, rows: rows)
        for one in outcome:
            if isinstance(one, Error):
                raise one
        return outcome

    def fill_mask(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each mask of a text ("[MASK]", or what the model's files call it) the likeliest tokens and their
        probabilities. Raises Unsupported for a checkpoint without a "mask" head."""
        self.needs_head("mask")
        if self.reader.mask_id is None:
            raise Unsupported(str(self.path), expected="a tokenizer with a mask", found=f"no {self.reader.mask_token}")
        tokens = self.checked(self.reader.read([text], self.context, parse_special=True)[0])
        at = np.flatnonzero(np.asarray(tokens.ids) == self.reader.mask_id)
        if not len(at):
            raise ParameterError("text", expected=f"at least one {self.reader.mask_token}", found="none")
        scores = self._run(self._head(), [tokens], rows=at)
        found = []
        for row in softmax(scores):
            best = np.argsort(-row, kind="stable")[:top]
            found.append([(self.reader.decode(int(i)), float(row[i])) for i in best])
        return found

    @property
    def usual_program(self) -> str:
        """What such an encoder is loaded for: the scores of its head, or else embeddings."""
        usual = self.embedding
        return HEAD if self.config.head.task else embedding_name(usual.pooling, usual.normalised)

    def trace(self, name: str) -> Trace:
        """Of a program of `models.programs`."""
        return self._prepared.programs[name].trace

    def observe(self, name: str, token_ids: list[int], values: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
        """What a program makes of token ids, and the rows of values of its trace."""
        return self._native(name).observe(np.asarray(token_ids, np.int32), values)

    def needs_head(self, task: str) -> None:
        """Raises Unsupported for a checkpoint that has no head for this."""
        if self.config.head.task != task:
            raise Unsupported(str(self.path), expected=f'a head for "{task}"', found=f'"{self.config.head.task}"')

    @property
    def context(self) -> int:
        """Tokens of the longest text."""
        return self._loading.context

    @property
    def dim(self) -> int:
        return self.config.dim

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.head.labels

    def info(self) -> dict[str, object]:
        """What is loaded and how it runs."""
        return {
            "path": str(self.path),
            "architecture": self.config.model_type,
            "head": self.config.head.task,
            "layers": self.config.n_layers,
            "dim": self.config.dim,
            "heads": self.config.n_heads,
            "vocab_size": self.config.vocab_size,
            "formats": dict(self._prepared.formats),
            "packed_bytes": self._prepared.packed_bytes,
            "kv_dtype": self._prepared.kv_dtype,
            "context": self.context,
            "threads": self._loading.n_threads,
            "isa": self._loading.isa,
        }

    def _native(self, name: str) -> _core.Encoder:
        """The program of this name, made ready when it is first asked for; all share the weights of the body."""
        if name not in self._programs:
            if name not in self._prepared.programs:
                raise FormatError(str(self.path), expected=f"a program for {name}", found="none")
            self._programs[name] = _core.Encoder(
                self._prepared.runnable(name),
                self._prepared.pool,
                isa=self._loading.isa,
                context=self.context,
                batch_tokens=BATCH_TOKENS,
                kv_dtype=self._prepared.kv_dtype,
            )
        return self._programs[name]

    def _head(self) -> _core.Encoder:
        if not self.config.head.task:
            raise Unsupported(str(self.path), expected="a checkpoint with a head", found="none")
        return self._native(HEAD)

    def _rows_of(self, native: _core.Encoder, text: Text | None, token_ids: list[int] | None) -> np.ndarray:
        if (text is None) == (token_ids is None):
            raise ParameterError("text and token_ids", expected="exactly one of them", found="both or none")
        if token_ids is None:
            tokens = self.checked(self.reader.read([text], self.context)[0])
            return self._run(native, [tokens])
        try:
            ids = np.asarray(token_ids)
        except ValueError:
            ids = np.empty(0)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise ParameterError("token_ids", expected="integers, at least one", found=shown(token_ids))
        if len(ids) > self.context:
            raise ContextOverflow("token_ids", expected=f"at most {self.context} tokens", found=str(len(ids)))
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            expected = f"0 to {self.config.vocab_size - 1}"
            raise ParameterError("token_ids", expected=expected, found=f"{ids.min()} to {ids.max()}")
        return native.run(ids.astype(np.int32), np.array([len(ids)]))

    def checked(self, tokens: Tokens | Error) -> Tokens:
        if isinstance(tokens, Error):
            raise tokens
        return tokens

    def _run(self, native: _core.Encoder, tokens: Sequence[Tokens], rows: np.ndarray | None = None) -> np.ndarray:
        ids = np.concatenate([np.asarray(one.ids, np.int32) for one in tokens])
        lengths = np.array([len(one.ids) for one in tokens])
        types = None
        if self.config.n_types > 1:
            types = np.concatenate([np.asarray(one.type_ids, np.int32) for one in tokens])
        return native.run(ids, lengths, type_ids=types, rows=rows)

    def _results(self, texts, native, finish, *, overflow: str, errors: str) -> Results:
        truncate = truncates(overflow)

        def chunk(some: list[Text]) -> list:
            tokens = self.reader.read(some, self.context, truncate=truncate)
            return self._outcomes(some, tokens, native, finish)

        return Results(texts, chunk, raises(errors))

    def _outcomes(self, texts: list[Text], tokens: list[Tokens | Error], native: _core.Encoder, finish) -> list:
        """What `finish` makes of each text, its tokens and rows; an error where there was one or numbers are none."""
        good = [one for one in tokens if isinstance(one, Tokens)]
        rows = self._run(native, good) if good else np.empty((0, 1), np.float32)
        found, begin = [], 0
        for text, one in zip(texts, tokens, strict=True):
            if isinstance(one, Error):
                found.append(one)
                continue
            end = begin + (1 if native.pools else len(one.ids))
            some, begin = rows[begin:end], end
            if np.isfinite(some).all():
                found.append(finish(text, one, some))
            else:
                found.append(FormatError(str(self.path), expected="weights that give numbers", found="NaN or infinity"))
        return found

    def _all(self, results: Iterator) -> np.ndarray:
        rows = list(results)
        return np.stack(rows) if rows else np.empty((0, self.config.dim), np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, in float64."""
    e = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
