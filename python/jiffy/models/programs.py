"""The programs that a model is, by name: one of a language model, two of an encoder-decoder, and of an encoder one for
each way in which it can end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..graph import Trace, Traced
from ..sentence_config import POOLINGS
from . import architecture
from .bert import bert
from .endings import chosen
from .heads import embedding, head
from .modernbert import modernbert
from .seq2seq import Seq2SeqWeights, decoder, encoder

if TYPE_CHECKING:
    from ..config import Config
    from ..encoder_config import EncoderConfig
    from ..seq2seq_config import Seq2SeqConfig
    from ..weights import Weights

ENCODER, DECODER, HIDDEN, HEAD = "encoder", "decoder", "hidden", "head"


def embedding_name(pooling: str, normalised: bool) -> str:
    return f"{pooling} normalised" if normalised else pooling


_EMBEDDINGS = {embedding_name(pooling, unit): (pooling, unit) for pooling in POOLINGS for unit in (False, True)}


def language_model(c: Config, w: Weights, context: int) -> dict[str, Traced]:
    trace = Trace()
    return {DECODER: trace.traced(architecture(c.model_type)(trace, c, w, context), context)}


def encoder_decoder(c: Seq2SeqConfig, w: Weights, context: int) -> dict[str, Traced]:
    shared = Seq2SeqWeights(w, w.matrix("embed_tokens.weight"))
    programs = {}
    for name, side in ((ENCODER, encoder), (DECODER, decoder)):
        trace = Trace()
        programs[name] = trace.traced(side(trace, c, shared, context), context)
    return programs


class EncoderPrograms(Mapping[str, Traced]):
    """For hidden rows, for the scores of the head if there is one, and for every sort of embedding. Each is traced when
    it is first asked for, but the head, whose weights are read with all others; all share the weights of the body."""

    def __init__(self, c: EncoderConfig, w: Weights, context: int) -> None:
        self._context = context
        self._names = (HIDDEN, *([HEAD] if c.head.task else []), *_EMBEDDINGS)
        self._body = Trace()
        table = w.matrix("embed_tokens.weight")
        self._ending = (modernbert if c.rope_thetas else bert)(self._body, c, w, table, context)
        self._made: dict[str, Traced] = {}
        if c.head.task:
            trace = self._body.branch()
            self._made[HEAD] = trace.traced(head(trace, self._ending, c, w, table), context)

    def __getitem__(self, name: str) -> Traced:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            trace = self._body.branch()
            if name == HIDDEN:
                result = chosen(trace, self._ending)
            else:
                result = embedding(trace, self._ending, *_EMBEDDINGS[name])
            self._made[name] = trace.traced(result, self._context)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
