"""An encoder to static vectors: what it makes of each token or word by itself, and, better, of texts that they are in.

Rows are embedded alone, reduced by PCA, and weighted as Arora et al. 2017 do: a / (a + p), where p is a token's share
of all text, by Zipf's law where nobody has counted (as model2vec does). Where texts are given, shares are counted in
them, and rows are then moved until their means come near the texts' embeddings: least squares with a price on steps.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arguments import integer
from .errors import Error, ParameterError, shown
from .notice import notify
from .results import watched
from .static_files import MAX_WORDS, write_static
from .tokenizer import check_text
from .vocabulary import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

    from .encoder import Encoder

_USUAL_SHARE = 1e-4  # Arora's a: tokens with more than this share of all text count less than half
_MARK = re.compile(r"\[\w+\]|<[^\s>]+>")  # a special token, or one that BERT leaves unused
_STEP_PRICE = 0.01
_ROUNDS = 30
_COLUMNS = 10  # solved at a time: each needs a number for every token of all texts


def distill(
    encoder: Encoder,
    out: str | os.PathLike[str],
    *,
    dims: int = 100,
    words: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    progress: bool = True,
) -> None:
    """Writes static vectors of `dims` numbers, which `jiffy.load` reads: one safetensors file with its tokenizer.

    words: what to have vectors of, in lower case and the most frequent first; None: the encoder's own tokens. texts:
    what to count and to learn in; texts without tokens are left out, and the end of long ones. The same input gives the
    same file. Raises ParameterError, FormatError naming `out` if it can't be written.
    """
    integer("dims", dims, 1, encoder.dim)
    library, names = _own(encoder) if words is None else _of_words(words)
    alone = _embedded(encoder, names, "tokens", progress)
    used = alone.any(axis=1)
    if used.sum() < 2:
        raise ParameterError("words", expected="at least two that have tokens", found=str(int(used.sum())))
    alone[used] -= alone[used].mean(axis=0)
    if not texts:
        rows = alone @ _axes(alone[used], dims) * _weights(_zipf(names, used))
    else:
        ids, targets = _lessons(encoder, library, texts, progress)
        axes = _axes(targets, dims)
        counts = np.bincount(np.concatenate(ids), minlength=len(names)) + 0.5
        rows = _fitted(alone @ axes * _weights(counts / counts.sum()), ids, targets @ axes)
    write_static(Path(out), rows.astype(np.float32), library.to_str())


def _own(encoder: Encoder) -> tuple[Library, list[str]]:
    """The encoder's tokenizer, and what each of its tokens is as a text by itself, "" for special ones."""
    from tokenizers import Tokenizer as Library

    library = Library.from_str(encoder.reader.tokenizer_json())
    special = {i for i, token in library.get_added_tokens_decoder().items() if token.special}
    names = []
    for i in range(max(library.get_vocab().values()) + 1):
        text = "" if i in special else encoder.reader.decode(i).removeprefix("##").strip()
        names.append("" if "\ufffd" in text or _MARK.fullmatch(text) else text)  # half a character
    return library, names


def _of_words(words: Sequence[str]) -> tuple[Library, list[str]]:
    """A tokenizer that knows these words alone."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, normalizers, pre_tokenizers

    words = list(words)
    if not 0 < len(words) <= MAX_WORDS:
        raise ParameterError("words", expected=f"1 to {MAX_WORDS} words", found=str(len(words)))
    unknown = ""  # which no text is cut into
    ids = {unknown: 0}
    normalizer, cutter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    several = 0
    for i, word in enumerate(words):
        check_text(word, f"words[{i}]")
        parts = cutter.pre_tokenize_str(normalizer.normalize_str(word))
        if len(parts) == 1:
            ids.setdefault(parts[0][0], len(ids))
        several += len(parts) != 1
    if several:
        notify(f"{several} of {len(words)} words are left out: texts are cut at spaces and punctuation")
    library = Library(models.WordLevel(ids, unk_token=unknown))
    library.normalizer, library.pre_tokenizer = normalizer, cutter
    return library, list(ids)


def _embedded(encoder: Encoder, texts: Sequence[str], what: str, progress: bool) -> np.ndarray:
    """float64 [n, dim], zeros for what has no tokens. Raises the encoder's other errors."""
    found = encoder.embeddings(texts, normalize=what == "texts", overflow="truncate", errors="return")
    rows = np.zeros((len(texts), encoder.dim))
    for i, one in enumerate(watched(found, len(texts), what) if progress else found):
        if isinstance(one, ParameterError):
            continue
        if isinstance(one, Error):
            raise one
        rows[i] = one
    return rows


def _lessons(
    encoder: Encoder, library: Library, texts: Sequence[str], progress: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """The numbers of each text's rows, and its embedding."""
    texts = list(texts)
    for i, text in enumerate(texts):
        check_text(text, f"texts[{i}]")
    with library_errors("texts", "texts that can be cut into tokens"):
        ids = [np.array(e.ids, np.int64) for e in library.encode_batch_fast(texts, add_special_tokens=False)]
    targets = _embedded(encoder, texts, "texts", progress)
    good = [i for i, some in enumerate(ids) if len(some) and targets[i].any()]
    if not good:
        raise ParameterError("texts", expected="at least one with tokens", found=shown(texts))
    return [ids[i] for i in good], targets[good]


def _axes(rows: np.ndarray, dims: int) -> np.ndarray:
    """[dim, dims]: the directions in which rows differ most from 0; the largest element of each is positive."""
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, ::-1][:, :dims]
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])


def _zipf(names: list[str], used: np.ndarray) -> np.ndarray:
    """Shares of tokens, by their ranks. Vocabularies begin with their alphabet, in no order: a single character has the
    share that counts half."""
    longer = used & np.array([len(name) > 1 for name in names])
    shares = 1.0 / (np.arange(longer.sum()) + 2)
    found = np.full(len(names), _USUAL_SHARE)
    found[longer] = shares / shares.sum()
    return found


def _weights(shares: np.ndarray) -> np.ndarray:
    return (_USUAL_SHARE / (_USUAL_SHARE + shares))[:, None]


def _fitted(rows: np.ndarray, ids: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Rows whose means over `ids` are near the targets: conjugate gradients over the steps from `rows`, scaled so that
    they are as near as they can be at the beginning."""
    means = _Means(ids, len(rows))
    first = means.of(rows)
    rows = rows * ((first * targets).sum() / max((first * first).sum(), 1e-30))
    parts = range(0, rows.shape[1], _COLUMNS)
    return np.hstack([_solved(rows[:, i : i + _COLUMNS], means, targets[:, i : i + _COLUMNS]) for i in parts])


def _solved(rows: np.ndarray, means: _Means, targets: np.ndarray) -> np.ndarray:
    steps = np.zeros_like(rows)
    rest = means.spread(targets - means.of(rows))
    direction, size = rest.copy(), (rest * rest).sum(axis=0)
    for _ in range(_ROUNDS):
        bent = means.spread(means.of(direction)) + _STEP_PRICE * direction
        length = size / np.maximum((direction * bent).sum(axis=0), 1e-300)
        steps += length * direction
        rest -= length * bent
        before, size = size, (rest * rest).sum(axis=0)
        direction = rest + size / np.maximum(before, 1e-300) * direction
    return rows + steps


class _Means:
    """Means of rows over the ids of each text, as a linear map."""

    def __init__(self, ids: list[np.ndarray], n_rows: int) -> None:
        lengths = np.array([len(some) for some in ids])
        self._flat, self._n_rows = np.concatenate(ids), n_rows
        self._begins = np.cumsum(lengths) - lengths
        self._shares = 1.0 / lengths[:, None]
        order = np.argsort(self._flat, kind="stable")
        self._texts = np.repeat(np.arange(len(ids)), lengths)[order]
        self._rows, self._starts = np.unique(self._flat[order], return_index=True)

    def of(self, rows: np.ndarray) -> np.ndarray:
        return np.add.reduceat(rows[self._flat], self._begins, axis=0) * self._shares

    def spread(self, targets: np.ndarray) -> np.ndarray:
        """The transposed map."""
        found = np.zeros((self._n_rows, targets.shape[1]))
        found[self._rows] = np.add.reduceat((targets * self._shares)[self._texts], self._starts, axis=0)
        return found
