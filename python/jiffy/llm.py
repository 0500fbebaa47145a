"""A language model: loaded, asked, measured."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from . import _core
from .completion import Completion
from .config import Config
from .errors import ParameterError, Unsupported, shown
from .families import ENCODER_DECODERS, ENCODERS, LANGUAGE_MODEL
from .hub import DEFAULT_ENCODER, resolve_model
from .loading import Loading, memory_errors
from .models.programs import DECODER
from .packed import write_packed
from .prepare import family_of, prepare
from .prepared import Prepared, pack_checkpoint
from .prompts import Fit, Prompt, PromptReader
from .requests import Requests, Stream
from .running import Running
from .sampling import SamplingParams
from .seq2seq import Seq2Seq
from .static_files import is_static

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from .chat import Message
    from .encoder import Encoder
    from .score import Score
    from .static_vectors import StaticVectors
    from .tokenizer import Tokenizer


def load(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    head: str | None = None,
    kv_dtype: str = "auto",
    n_threads: int | None = None,
    isa: str | None = None,
    context: int | None = None,
    prefill_chunk: int = 512,
    max_batch: int = 64,
    prefix_cache: bool = True,
    progress: bool = True,
    fuse: bool = True,
    cache: bool = True,
    shortlist: str | os.PathLike[str] | bool = False,
) -> Model:
    """Loads a language model; of the folder of an encoder (bert and its kin) what `load_encoder` gives, and a
    `jiffy.Seq2Seq` of an encoder-decoder (marian, t5, bart, mbart, m2m_100, or Marian's own .bin files), and
    `jiffy.StaticVectors` of GloVe's or word2vec's text (.txt, .vec), of a .npy file with its words in a .txt file
    beside it, of model2vec's folder, and of what `jiffy distill` writes.

    name_or_path: a .gguf file, a Hugging Face folder with safetensors, a file that `jiffy.pack` wrote, a known name
    (`jiffy models` lists them), or a model on the Hugging Face hub: "org/name", "org/name@revision",
    "org/name:file.gguf" where there are several, or both, "org/name@revision:file.gguf". None: the default model,
    "smollm2-135m". What has been fetched once is not looked up again: a branch stays at its commit until its files are
    deleted from the cache.
    weights: a format of `jiffy.formats()`; None keeps what the file holds without loss, or, for GGUF types that have no
    format here, converts it and says so on standard error. head: the same for the vocabulary matrix.
    kv_dtype: of keys and values in the cache: "f32", "bf16" (half the bytes, no loss to speak of) or "int8" (a quarter,
    and integer arithmetic); "auto" is f32 where all weights are f32, else bf16.
    n_threads: None for the physical cores that this process may use. isa: one of `jiffy.isas()`, None for the fastest.
    context: positions, None for the model's own up to 8192. prefill_chunk: prompt tokens in one step. max_batch:
    sequences that run at once.
    prefix_cache: keep the keys and values of what has been computed as long as there is room, so that a prompt that
    begins like an earlier one costs only what is new in it (the same bits).
    progress: a progress bar on a terminal. fuse: False runs the program as traced (slower, the same bits).
    cache: keep the packed weights of models of 64 MB and more in jiffy's cache folder, so that the next load only reads
    them (the same bits); `jiffy cache` lists and clears it. False neither reads nor writes it.
    shortlist: of an encoder-decoder, the file that says which tokens may translate a source token (lex*.bin, as
    Marian's students come with): a text's translation is chosen, and its probabilities are, among those alone, about
    twice as fast and a little worse; among all where a token of the text is unknown. True: the one beside Marian's .bin
    file, if there is just one for its direction, or the one in a packed file.

    Raises FormatError for a damaged model, Unsupported for one that jiffy can't run, ParameterError, OutOfMemory.
    """
    if name_or_path is not None and not isinstance(name_or_path, (str, os.PathLike)):
        raise ParameterError("name_or_path", expected="a path or a name", found=type(name_or_path).__name__)
    loading = Loading(
        *(weights, head, kv_dtype, n_threads, isa, context, prefill_chunk, max_batch, prefix_cache, progress, fuse),
        *(cache, shortlist),
    )
    path = resolve_model(name_or_path, progress)
    with memory_errors(path, context):
        family = family_of(path)
        if family is not ENCODER_DECODERS and shortlist is not False:
            expected = "False for what is no encoder-decoder"
            raise ParameterError("shortlist", expected=expected, found=shown(shortlist))
        if family is LANGUAGE_MODEL and is_static(path):
            return cast("Model", _static(path, loading))
        made = {LANGUAGE_MODEL: Model, ENCODERS: _encoder, ENCODER_DECODERS: Seq2Seq}[family]
        return cast("Model", made(prepare(path, loading)))  # so that callers of what most models are keep its type


def load_encoder(
    name_or_path: str | os.PathLike[str] | None = None,
    *,
    weights: str | None = None,
    head: str | None = None,
    kv_dtype: str = "auto",
    n_threads: int | None = None,
    isa: str | None = None,
    context: int | None = None,
    progress: bool = True,
    fuse: bool = True,
    cache: bool = True,
) -> Encoder:
    """Loads an encoder, with the head that its files have: bert, distilbert, roberta, xlm-roberta, albert, electra,
    mpnet or modernbert.

    name_or_path: a Hugging Face folder with safetensors, a file that `jiffy.pack` wrote, a known name, or "org/name" on
    the hub; None: the default, "minilm-l6". context: tokens of the longest text, None for what its files say.
    Everything else as for `load`.
    Raises Unsupported for a model that is no encoder, and as `load` does.
    """
    loading = Loading(
        weights, head, kv_dtype, n_threads, isa, context, 512, 64, True, progress=progress, fuse=fuse, cache=cache
    )
    path = resolve_model(DEFAULT_ENCODER if name_or_path is None else name_or_path, progress)
    if (family := family_of(path)) is not ENCODERS:
        raise Unsupported(str(path), expected="an encoder", found=family.title)
    with memory_errors(path, context):
        return _encoder(prepare(path, loading))


def _encoder(prepared: Prepared) -> Encoder:
    from .encoder import Encoder

    return Encoder(prepared)


def _static(path: Path, loading: Loading) -> StaticVectors:
    from .static_vectors import StaticVectors

    return StaticVectors(path, loading.n_threads, loading.isa)


def pack(
    name_or_path: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    weights: str | None = None,
    head: str | None = None,
    context: int | None = None,
    n_threads: int | None = None,
    progress: bool = True,
) -> None:
    """Packs a model of any family into one file, which `jiffy.load` reads without any other: programs, weights as they
    are in memory, config, tokenizer and chat template, an encoder's pooling and labels, a translator's shortlist.

    The arguments are those of `jiffy.load`. context: only for models whose rope depends on it ("dynamic" scaling),
    which can then be loaded with this one alone, and for such with sinusoids, with this one at most. The file appears
    whole or not at all.
    Raises as `jiffy.load` does, and FormatError naming `out` if it can't be written.
    """
    loading = Loading(
        weights, head, "auto", n_threads, None, context, 512, 64, prefix_cache=True, progress=progress, fuse=True
    )
    path = resolve_model(name_or_path, progress)
    with memory_errors(path, context):
        model = pack_checkpoint(path, loading)
        write_packed(out, model, {"source": str(path), "weights": weights, "head": head})


class Model:
    """A loaded language model. Calls from several threads join one running batch."""

    def __init__(self, prepared: Prepared) -> None:
        self.config: Config = prepared.config
        self.path = prepared.path
        self.tokenizer: Tokenizer = prepared.reader
        self._loading = loading = prepared.loading
        self._formats, self._packed_bytes = prepared.formats, prepared.packed_bytes
        self._trace = prepared.programs[DECODER].trace
        self._engine = _core.Engine(
            prepared.runnable(DECODER),
            prepared.pool,
            isa=loading.isa,
            context=loading.context,
            max_batch=loading.max_batch,
            prefill_chunk=loading.prefill_chunk,
            kv_dtype=prepared.kv_dtype,
            prefix_cache=loading.prefix_cache,
        )
        self._running = Running(self._engine)
        self._reader = PromptReader(self.tokenizer, self.config.vocab_size, loading.context)

    @overload
    def generate(self, prompt: str, *, n: Literal[1] = 1, params: None = None, **more: Any) -> Completion: ...
    @overload
    def generate(
        self, prompt: list[str], *, n: Literal[1] = 1, params: None = None, **more: Any
    ) -> list[Completion]: ...
    @overload
    def generate(self, prompt: str, **more: Any) -> Completion | list[Completion]: ...
    @overload
    def generate(
        self, prompt: list[str] | None = None, **more: Any
    ) -> Completion | list[Completion] | list[list[Completion]]: ...
    def generate(
        self,
        prompt: str | list[str] | None = None,
        *,
        token_ids: list[int] | list[list[int]] | None = None,
        params: SamplingParams | None = None,
        parse_special: bool = False,
        overflow: str = "error",
        **fields: object,
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """Completes a prompt, or a list of them as one ragged batch.

        Exactly one of prompt (text) and token_ids. `fields` are fields of SamplingParams. A prompt gives a Completion,
        with n > 1 a list of n of them; a list of prompts gives the list of what each gives. Special-token text in a
        prompt is plain text unless parse_special. overflow: "error", or "truncate" to leave out a prompt's oldest
        tokens, as many as it takes for prompt and max_tokens to fit the context (where at most half of the context is
        set aside for the answer); a bos that the tokenizer puts before every text stays.
        Raises ParameterError, ContextOverflow, before any of it has started; a request that fails while it runs raises
        its error after the others of the list have been stopped.
        """
        chosen = SamplingParams.of(params, fields)
        fit = self._fit(overflow, chosen)
        prompts, single = self._reader.read(prompt, token_ids, fit=fit, parse_special=parse_special)
        answers = self._answers(prompts, chosen)
        return answers[0] if single else answers

    def stream(
        self,
        prompt: str | None = None,
        *,
        token_ids: list[int] | None = None,
        params: SamplingParams | None = None,
        parse_special: bool = False,
        overflow: str = "error",
        **fields: object,
    ) -> Stream:
        """Completes a prompt piece by piece: iterate for text; `.result()` is the Completion afterwards.

        Closing it (or leaving its `with` block) cancels the request and frees its memory. Raises as `generate` does,
        and ParameterError for n > 1.
        """
        chosen = SamplingParams.of(params, fields)
        fit = self._fit(overflow, chosen)
        prompts, single = self._reader.read(prompt, token_ids, fit=fit, parse_special=parse_special)
        if not single:
            raise ParameterError("prompt", expected="one prompt", found=f"a list of {len(prompts)}")
        return self._stream(prompts[0], chosen)

    @overload
    def chat(self, messages: list[Message], *, n: Literal[1] = 1, params: None = None, **more: Any) -> Completion: ...
    @overload
    def chat(self, messages: list[Message], **more: Any) -> Completion | list[Completion]: ...
    def chat(
        self,
        messages: list[Message],
        *,
        params: SamplingParams | None = None,
        overflow: str = "error",
        **fields: object,
    ) -> Completion | list[Completion]:
        """Answers a chat - a list of {"role": ..., "content": ...} - in the model's template; with n > 1, n times.

        overflow: "error", or "truncate" to leave out the oldest turns (what a user said and all that was answered),
        never a system message. Raises as `generate` does, Unsupported for a model without a template, FormatError for a
        template that is wrong or refuses the messages, ContextOverflow if even the newest turn is too long.
        """
        chosen = SamplingParams.of(params, fields)
        return self._answers([self._reader.chat(messages, fit=self._fit(overflow, chosen))], chosen)[0]

    def chat_stream(
        self,
        messages: list[Message],
        *,
        params: SamplingParams | None = None,
        overflow: str = "error",
        **fields: object,
    ) -> Stream:
        """`chat`, piece by piece as `stream` does it."""
        chosen = SamplingParams.of(params, fields)
        return self._stream(self._reader.chat(messages, fit=self._fit(overflow, chosen)), chosen)

    def score(
        self,
        text: str | None = None,
        *,
        token_ids: list[int] | None = None,
        add_bos: bool | None = None,
        stride: int | None = None,
        parse_special: bool = False,
    ) -> Score:
        """How likely a text of at least two tokens is: the log probability of each token given those before it; NaN
        where the weights overflow.

        Exactly one of text and token_ids. add_bos: None encodes a text as a prompt, with the model's bos where it wants
        one, and takes token_ids as they are; True puts bos in front of both, if it isn't there; False adds none.
        stride: None raises ContextOverflow for more tokens than the context holds; a number takes them in windows of
        the context's length that begin so many tokens apart, in which every token sees at least `context - stride`
        tokens before it, or all there are.
        Raises ParameterError, and Unsupported if bos is wanted of a model without one.
        """
        from .score import Score, checked_stride, strided

        stride = checked_stride(stride, self._reader.context)
        ids = self._reader.to_score(text, token_ids, add_bos, parse_special)
        if stride is None:
            return Score(ids, self._running.score(self._reader.fitting(ids)))
        return Score(ids, strided(self._running.score, ids, self._reader.context, stride))

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """float32 [n_tokens, vocab_size]: what follows each prefix of token_ids; NaN where the weights overflow.

        Raises ParameterError, ContextOverflow.
        """
        return self._running.logits(self._reader.fitting(self._reader.checked(token_ids)))

    def info(self) -> dict[str, object]:
        """What is loaded and how it runs. cached_tokens: of all prompts so far, those that the prefix cache spared."""
        return {
            "path": str(self.path),
            "architecture": self.config.model_type,
            "layers": self.config.n_layers,
            "dim": self.config.dim,
            "heads": self.config.n_heads,
            "kv_heads": self.config.n_kv_heads,
            "vocab_size": self.config.vocab_size,
            "parameters": sum(self._formats.values()),
            "formats": dict(self._formats),
            "packed_bytes": self._packed_bytes,
            "kv_dtype": self._engine.kv_dtype,
            "kv_bytes": self._engine.kv_bytes,
            "context": self._loading.context,
            "max_batch": self._loading.max_batch,
            "prefill_chunk": self._loading.prefill_chunk,
            "prefix_cache": self._loading.prefix_cache,
            "cached_tokens": self._engine.n_cached_tokens,
            "threads": self._loading.n_threads,
            "isa": self._engine.isa,
        }

    def _fit(self, overflow: str, params: SamplingParams) -> Fit:
        return Fit(overflow, self._loading.context, params.max_tokens)

    def _requests(self, prompts: list[Prompt], params: SamplingParams) -> Requests:
        return Requests(self._running, self.tokenizer, self.config.eos_ids, prompts, params)

    def _answers(self, prompts: list[Prompt], params: SamplingParams) -> list[Completion] | list[list[Completion]]:
        results = self._requests(prompts, params).run()
        return results if params.n > 1 else [completions[0] for completions in results]

    def _stream(self, prompt: Prompt, params: SamplingParams) -> Stream:
        for name in ("n", "n_beams"):
            if getattr(params, name) > 1:
                raise ParameterError(name, expected="1 for a stream", found=str(getattr(params, name)))
        return Stream(self._requests([prompt], params))
