"""Answers that end at stop strings, token by token, against looking for them in the whole text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import tiny
from jiffy.completion import Progress
from jiffy.sampling import SamplingParams
from jiffy.spelling import byte_alphabet, byte_level
from jiffy.tokenizer import Tokenizer
from jiffy.vocabulary import Vocabulary

_EOS = tiny.EOS
_MAX_BYTES = 300  # what is expected takes quadratic time


def _tokenizer() -> Tokenizer:
    """A token for every byte, with the byte as its id, and then those of `tiny`."""
    from tokenizers import Tokenizer as Library
    from tokenizers.models import BPE

    texts = [byte_alphabet()[byte] for byte in range(256)] + tiny.SPECIALS
    library = Library(BPE({text: i for i, text in enumerate(texts)}, []))
    return Tokenizer(Vocabulary(library, {}, byte_level(), len(texts), None, False, (_EOS,), None), "fuzz")


_TOKENIZER = _tokenizer()


def seeds() -> list[bytes]:
    return [b"\2ab\0abc\0" + "xabé😀abc".encode(), b"\1aab\0aaaaab", b"\3\xc3\xa9\0b\0c\0\xc3\xc3\xa9\xff\xf0\x9f\x98"]


def one(data: bytes, folder: Path) -> None:
    n_stops = data[0] % 5 if data else 0
    *texts, answer = data[1:_MAX_BYTES].split(b"\0", n_stops)
    stop = SamplingParams(stop=tuple(text.decode(errors="replace") for text in texts)).stop
    progress = Progress(_TOKENIZER, stop, (_EOS,))
    given = ""
    for at, token in enumerate(answer):
        is_last = at == len(answer) - 1
        reason = "length" if is_last else None
        given += progress.take(SimpleNamespace(token=token, finished=is_last, reason=reason, logprob=None))
        if progress.finish_reason:
            break
    if answer:
        assert (progress.result(0, 0, False).text, given) == _expected(answer, stop) * 2


def _expected(answer: bytes, stop: tuple[str, ...]) -> tuple[str]:
    """The text before the stop string that is complete first; of those complete at once, the one that begins first."""
    stream = _TOKENIZER.stream()
    text = ""
    for at, token in enumerate(answer):
        text += stream.put(token)
        if at == len(answer) - 1:
            text += stream.finish()
        found = [text.index(one) for one in stop if one in text]
        if found:
            return (text[: min(found)],)
    return (text,)
