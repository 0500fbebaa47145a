"""An encoder-decoder: loaded, and asked for the texts that it makes of others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from . import _core
from .arguments import one_of
from .completion import Completion
from .encoder import BATCH_TOKENS
from .errors import Error, ParameterError, shown
from .models.programs import DECODER, ENCODER
from .requests import Requests
from .running import Running
from .sampling import SamplingParams

if TYPE_CHECKING:
    import numpy as np

    from .graph import Trace
    from .prepared import Prepared
    from .prompts import Prompt
    from .seq2seq_config import Seq2SeqConfig
    from .seq2seq_texts import Seq2SeqReader

_NOT_FOR_BEAMS = {"temperature", "repetition_penalty", "presence_penalty", "frequency_penalty", "logprobs", "stop"}
_AT_ONCE = 1024  # requests that wait in the engine: a list of any length needs no more memory
Answer = Completion | list[Completion]


class Seq2Seq:
    """A loaded encoder-decoder: a translator, a summariser. Nothing is padded; a text's answer is the same bits in
    whatever company. Calls from several threads join one running batch.

    config: its shape; `config.generation` says how its files want it used. tokenizer: of the target.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.path = prepared.path
        self.config: Seq2SeqConfig = prepared.config
        self._loading = prepared.loading
        self.reader: Seq2SeqReader = prepared.reader
        self.tokenizer = self.reader.target
        self._prepared = prepared
        self._encoder, self._engine = _engine(prepared)
        self._running = Running(self._engine)

    def generate(
        self,
        texts: str | list[str] | None = None,
        *,
        token_ids: list[int] | list[list[int]] | None = None,
        target_language: str | None = None,
        source_language: str | None = None,
        params: SamplingParams | None = None,
        overflow: str = "error",
        errors: str = "raise",
        **fields: object,
    ) -> Answer | list[Answer | Error]:
        """What the model makes of a text, or of a list of them as one ragged batch.

        Exactly one of texts and token_ids (of the source, as they are). Of a model that speaks several languages,
        target_language and source_language ("pt" or "Portuguese"; English for None) say which. `fields` are fields of
        SamplingParams; those that nobody gives are as the model's files say (`config.generation`), and max_tokens grows
        with the source. overflow: "error", or "truncate" to leave out the end of a text that is longer than the
        context. errors: "raise" what is wrong with a text before any of them has started, or "return" it in the text's
        place, and answer the others.
        Raises ParameterError, ContextOverflow, Unsupported for a language.
        """
        one_of("overflow", overflow, ["error", "truncate"])
        one_of("errors", errors, ["raise", "return"])
        chosen, most = self._params(params, fields, target_language)
        language = self.reader.target_token(target_language)
        given, single = _listed(texts, token_ids)
        own = partial(self.reader.ids, language=source_language, truncate=overflow == "truncate")
        read = own if token_ids is None else self.reader.checked
        found: list[Answer | Error] = []
        for begin in range(0, len(given), _AT_ONCE):
            some = given[begin : begin + _AT_ONCE]
            prompts = [self._prompt(one, read, language, most, errors) for one in some]
            answers = iter(self._answers([p for p in prompts if not isinstance(p, Error)], chosen, errors))
            found += [p if isinstance(p, Error) else next(answers) for p in prompts]
        return found[0] if single else found

    def logits(self, source_ids: list[int], target_ids: list[int]) -> np.ndarray:
        """float32 [n_target, vocab_size]: what follows each prefix of target_ids, which begin with the decoder's start.
        Of all tokens, whatever a shortlist says.

        Raises ParameterError, ContextOverflow.
        """
        return self._running.logits(self.reader.checked(target_ids), self.reader.checked(source_ids))

    def trace(self, name: str) -> Trace:
        """Of the "encoder" or the "decoder"."""
        return self._prepared.programs[name].trace

    def info(self) -> dict[str, object]:
        """What is loaded and how it runs."""
        return {
            "path": str(self.path),
            "architecture": self.config.model_type,
            "layers": (self.config.encoder.n_layers, self.config.decoder.n_layers),
            "dim": self.config.dim,
            "vocab_size": self.config.vocab_size,
            "formats": dict(self._prepared.formats),
            "packed_bytes": self._prepared.packed_bytes,
            "kv_dtype": self._engine.kv_dtype,
            "shortlist": self.reader.shortlist_name,
            "context": self._loading.context,
            "max_batch": self._loading.max_batch,
            "threads": self._loading.n_threads,
            "isa": self._engine.isa,
        }

    def _params(
        self, params: SamplingParams | None, fields: dict[str, object], language: str | None
    ) -> tuple[SamplingParams, int | None]:
        """The parameters, and how many tokens an answer may have where somebody says so."""
        usage = self.config.generation
        forced = self.reader.forced(self.reader.target_token(language))
        if params is not None:
            chosen = SamplingParams.of(params, {**forced, **fields})
            return chosen, chosen.max_tokens
        own = dict(usage.fields)
        if _NOT_FOR_BEAMS.intersection(fields):
            own["n_beams"] = 1
        chosen = SamplingParams.of(None, {**own, **forced, **fields})
        return chosen, chosen.max_tokens if "max_tokens" in fields else usage.max_length

    def _prompt(
        self, given: object, read: Callable[[object], list[int]], language: int | None, most: int | None, errors: str
    ) -> Prompt | Error:
        try:
            return self.reader.prompt(read(given), language, most)
        except Error as error:
            if errors == "raise":
                raise
            return error

    def _answers(self, prompts: list[Prompt], params: SamplingParams, errors: str) -> list[Answer | Error]:
        requests = Requests(self._running, self.tokenizer, self.reader.eos_ids, prompts, params, errors == "return")
        results = requests.run()
        return results if params.n > 1 else [one if isinstance(one, Error) else one[0] for one in results]


def _engine(prepared: Prepared) -> tuple[_core.Encoder, _core.Engine]:
    loading, pool = prepared.loading, prepared.pool
    native = {"isa": loading.isa, "context": loading.context, "kv_dtype": prepared.kv_dtype}
    reader = _core.Encoder(prepared.runnable(ENCODER), pool, batch_tokens=BATCH_TOKENS, **native)
    batch = {"max_batch": loading.max_batch, "prefill_chunk": loading.prefill_chunk}
    own = {"encoder": reader, "shortlist": prepared.reader.shortlist}
    engine = _core.Engine(prepared.runnable(DECODER), pool, prefix_cache=False, **own, **native, **batch)
    return reader, engine


def _listed(texts: object, token_ids: object) -> tuple[list[object], bool]:
    """What was given as a list, and whether it was just one."""
    if (texts is None) == (token_ids is None):
        found = "neither" if texts is None else "both"
        raise ParameterError("texts", expected="exactly one of texts and token_ids", found=found)
    if texts is not None:
        if not isinstance(texts, (str, list, tuple)):
            raise ParameterError("texts", expected="a text or a list of texts", found=shown(texts))
        return ([texts], True) if isinstance(texts, str) else (list(texts), False)
    if not isinstance(token_ids, (list, tuple)):
        raise ParameterError("token_ids", expected="a list of integers", found=shown(token_ids))
    single = not token_ids or not isinstance(token_ids[0], (list, tuple))
    return ([token_ids], True) if single else (list(token_ids), False)
