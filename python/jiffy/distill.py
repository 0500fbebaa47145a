"""An encoder to static vectors: learned from what it makes of heaps of words, and, better, of texts.

What is known of a token or a word is its embedding by itself and its row of the encoder's own table. A linear map takes
both to its static vector: the map whose vectors' means come nearest the embeddings of texts that hold many words (least
squares). It has few numbers for the many that the vectors have, so heaps of words, drawn by Zipf's law where nobody has
counted, teach most of it. Where texts are given, they teach it, too, and then vectors are moved one by one.
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
from .heaps import heaps
from .mean_fit import FeatureMap, Means, moved
from .models.programs import HIDDEN
from .notice import notify
from .results import watched
from .static_files import MAX_WORDS, write_static
from .static_vectors import unknown_id
from .tokenizer import check_text
from .vocabulary import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Library

    from .encoder import Encoder

_MARK = re.compile(r"\[\w+\]|<[^\s>]+>")  # a special token, or one that BERT leaves unused
_HEAP_WEIGHT = 0.25  # of a heap beside a text
_HEAP_SHARE_OF_AXES = 0.01  # so that there are as many axes as are wanted when texts are few
_IDS_AT_ONCE = 512


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
    what to learn from; texts without tokens are left out, and the end of long ones. The same input gives the
    same file. Raises ParameterError, FormatError naming `out` if it can't be written.
    """
    integer("dims", dims, 1, encoder.dim)
    library, names = _own(encoder) if words is None else _of_words(words)
    alone = _embedded(encoder, names, "tokens", progress)
    used = np.any(alone != 0, axis=1)
    if used.sum() < 2:
        raise ParameterError("words", expected="at least two that have tokens", found=str(int(used.sum())))
    lots = [] if not texts else [(*_lessons(encoder, library, texts, "texts", progress), 1.0, 1.0)]
    drawn = _heaps(library, names, used)
    lots.append((*_lessons(encoder, library, drawn, "heaps", progress), _HEAP_WEIGHT, _HEAP_SHARE_OF_AXES))
    features = np.hstack([_centred(alone, used), _centred(table_rows(encoder, names, own=words is None), used)])
    axes = _axes([(targets, share) for _, targets, _, share in lots], dims)
    rows = _learned(features, [(Means(ids, len(names)), targets @ axes, weight) for ids, targets, weight, _ in lots])
    write_static(Path(out), np.where(used[:, None], rows, 0).astype(np.float32), library.to_str())


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
    """float32 [n, dim], zeros for what has no tokens. Raises the encoder's other errors."""
    found = encoder.embeddings(texts, normalize=what != "tokens", overflow="truncate", errors="return")
    rows = np.zeros((len(texts), encoder.dim), np.float32)
    for i, one in enumerate(watched(found, len(texts), what) if progress else found):
        if isinstance(one, ParameterError):
            continue
        if isinstance(one, Error):
            raise one
        rows[i] = one
    return rows


def table_rows(encoder: Encoder, names: Sequence[str], *, own: bool) -> np.ndarray:
    """Of the encoder's own table, before any layer: each token's row, or the mean of those of a word's tokens."""
    n = encoder.config.vocab_size
    at_once = min(_IDS_AT_ONCE, encoder.context)
    first = encoder.trace(HIDDEN).instructions[0].outputs[0]
    parts = [list(range(i, min(i + at_once, n))) for i in range(0, n, at_once)]
    table = np.vstack([encoder.observe(HIDDEN, ids, [first])[1][0] for ids in parts])
    if own:
        return table[: len(names)]
    from tokenizers import Tokenizer as Library

    cut = Library.from_str(encoder.reader.tokenizer_json()).encode_batch_fast(list(names), add_special_tokens=False)
    known = [i for i, some in enumerate(cut) if len(some)]
    rows = np.zeros((len(names), table.shape[1]), np.float32)
    rows[known] = Means([np.array(cut[i].ids, np.int64) for i in known], len(table)).of(table)
    return rows


def _heaps(library: Library, names: list[str], used: np.ndarray) -> list[str]:
    """Of the words among the names: what is cut into just itself, and is longer than one character."""
    longer = [i for i, name in enumerate(names) if used[i] and len(name) > 1]
    cut = library.encode_batch_fast([names[i] for i in longer], add_special_tokens=False)
    words = [names[i] for i, some in zip(longer, cut, strict=True) if some.ids == [i]]
    words = words or [names[i] for i in np.flatnonzero(used)]
    return heaps(words, [1 / (rank + 2) for rank in range(len(words))])


def _lessons(
    encoder: Encoder, library: Library, texts: Sequence[str], what: str, progress: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """The numbers of each text's rows, and its embedding."""
    texts = list(texts)
    for i, text in enumerate(texts):
        check_text(text, f"{what}[{i}]")
    with library_errors(what, "texts that can be cut into tokens"):
        cut = library.encode_batch_fast(texts, add_special_tokens=False)
    unknown = unknown_id(library)  # left out, as where vectors are used
    ids = [np.array([i for i in one.ids if i != unknown], np.int64) for one in cut]
    targets = _embedded(encoder, texts, what, progress)
    good = [i for i, some in enumerate(ids) if len(some) and targets[i].any()]
    if not good:
        raise ParameterError(what, expected="at least one with tokens", found=shown(texts))
    return [ids[i] for i in good], targets[good]


def _centred(rows: np.ndarray, used: np.ndarray) -> np.ndarray:
    return np.where(used[:, None], rows - rows[used].mean(axis=0), 0).astype(np.float32)


def _axes(lots: Sequence[tuple[np.ndarray, float]], dims: int) -> np.ndarray:
    """[dim, dims]: the directions in which rows differ most from 0; the largest element of each is positive."""
    rows = np.vstack([np.sqrt(share) * targets.astype(np.float64) for targets, share in lots])
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, ::-1][:, :dims]
    return (axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(dims)])).astype(np.float32)


def _learned(features: np.ndarray, lots: Sequence[tuple[Means, np.ndarray, float]]) -> np.ndarray:
    """Rows by features, from all lots of texts; the last lot is that of the heaps."""
    learned = FeatureMap(features, lots[0][1].shape[1], len(lots))
    for i, (means, targets, weight) in enumerate(lots):
        learned.add(i, means, targets, weight)
    rows = features @ learned.solved()
    means, targets, _ = lots[0]
    offset = means.of(rows).mean(axis=0)
    if len(lots) == 1:
        return rows - offset  # what all heaps have in common is not in other texts
    rows += targets.mean(axis=0) - offset
    return moved(rows, means, targets)
