"""Texts cut into sentences, and put back together as they were."""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 1000  # characters of a piece: longer sentences are cut between words

# A line's end; or what ends a sentence, with what closes behind it, before a space and something that can begin one.
_END = re.compile(
    r"(?P<line>\n\s*)"
    r"|(?<=[.!?\u2026])[\"'\u201d\u2019\u00bb)\]]*(?P<gap>[^\S\n]+)(?=[\"'\u201c\u2018\u00ab(\[\u00bf\u00a1]*[^\W_a-z])"
    r"|(?<=[\u3002\uff01\uff1f])[\u300d\u300f\u201d\uff09]*(?P<none>)(?=\S)"
)
# A dot behind these ends no sentence: what is short for a name that follows, a number, an initial.
_SHORT = re.compile(
    r"(?:^|[\s(\"'\u201c])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Sra|Dra|Exmo|Gen|Col|Capt|Lt|Sgt|Rev|Hon|No|Nos|Fig|Vol|vs|"
    r"cf|e\.g|i\.e|p\.ex|pp?|art)\.$"
)
_SOFT = re.compile(r"[,;:]\s|\s")


@dataclass(frozen=True)
class Document:
    """gaps: what stands before, between and behind the sentences; one more than these."""

    sentences: list[str]
    gaps: list[str]

    @classmethod
    def of(cls, text: str) -> Document:
        sentences, gaps = [], [""]
        for sentence, gap in _parts(text):
            if not sentence:
                gaps[-1] += gap
                continue
            for piece, between in _pieces(sentence):
                sentences.append(piece)
                gaps.append(between)
            gaps[-1] += gap
        return cls(sentences, gaps)

    def with_sentences(self, sentences: list[str]) -> str:
        """The text with others in the places of its sentences."""
        parts = [self.gaps[0]]
        for sentence, gap in zip(sentences, self.gaps[1:], strict=True):
            parts += [sentence, gap]
        return "".join(parts)


def _parts(text: str):
    """(sentence, what stands behind it); a sentence has no space at its ends, and may be empty."""
    at = 0
    for match in _END.finditer(text):
        kind = match.lastgroup or "none"
        begin, end = match.span(kind)
        if kind == "gap" and _SHORT.search(text[max(at, begin - 12) : begin]):
            continue
        yield from _trimmed(text[at:begin], text[begin:end])
        at = end
    yield from _trimmed(text[at:], "")


def _trimmed(sentence: str, gap: str):
    inner = sentence.strip()
    if not inner:
        yield "", sentence + gap
        return
    start = sentence.index(inner)
    yield "", sentence[:start]
    yield inner, sentence[start + len(inner) :] + gap


def _pieces(sentence: str):
    """A sentence, or parts of a very long one, each with the space behind it."""
    while len(sentence) > LONGEST:
        cuts = [match.end() for match in _SOFT.finditer(sentence, LONGEST // 2, LONGEST)]
        if not cuts:
            break
        piece = sentence[: cuts[-1]]
        yield piece.rstrip(), piece[len(piece.rstrip()) :]
        sentence = sentence[cuts[-1] :]
    yield sentence, ""
