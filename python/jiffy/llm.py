"""encode -> engine.step() -> decode: a language model and its requests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import _core
from .checkpoint import Checkpoint, open_checkpoint
from .completion import Completion, Progress
from .config import Config
from .errors import OutOfMemory, ParameterError, shown
from .graph import Trace
from .hub import resolve_model
from .loading import Loading
from .models import architecture
from .running import Running
from .sampling import SamplingParams
from .tokenizer import Tokenizer
from .weights import Packing, Weights

if TYPE_CHECKING:
    import numpy as np

_SMALLEST_F32 = 1e-45  # above 0 as float32


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
    progress: bool = True,
    fuse: bool = True,
) -> Model:
    """Loads a language model.

    name_or_path: a .gguf file, a Hugging Face folder with safetensors, or a known name ("smollm2-135m"); None: the
    default model.
    weights: a format of `jiffy.formats()`; None keeps what the file holds without loss. head: the same for the
    vocabulary matrix.
    kv_dtype: "f32" ("auto" chooses it). n_threads: None for the physical cores that this process may use.
    isa: one of `jiffy.isas()`, None for the fastest. context: positions, None for the model's own up to 8192.
    prefill_chunk: prompt tokens in one step. max_batch: sequences that run at once.
    progress: a progress bar on a terminal. fuse: False runs the program as traced (slower, the same bits).

    Raises FormatError for a damaged model, Unsupported for one that jiffy can't run, ParameterError, OutOfMemory.
    """
    if name_or_path is not None and not isinstance(name_or_path, (str, os.PathLike)):
        raise ParameterError("name_or_path", expected="a path or a name", found=type(name_or_path).__name__)
    loading = Loading(weights, head, kv_dtype, n_threads, isa, context, prefill_chunk, max_batch, progress, fuse)
    checkpoint = open_checkpoint(resolve_model(name_or_path))
    loading = loading.completed(checkpoint.config)
    try:
        return Model(checkpoint, loading)
    except MemoryError as error:  # numpy's, or already ours
        if isinstance(error, OutOfMemory):
            raise
        expected = f"memory for weights and a context of {loading.context}"
        raise OutOfMemory(str(checkpoint.path), expected=expected, found=str(error) or "too little") from None


class Model:
    """A loaded language model. Calls from several threads join one running batch."""

    def __init__(self, checkpoint: Checkpoint, loading: Loading) -> None:
        self.config: Config = checkpoint.config
        self.path = checkpoint.path
        self.tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
        self._loading = loading
        pool = _core.ThreadPool(loading.n_threads)
        total = sum(entry.n_bytes for entry in checkpoint.tensors.values())
        with _progress_bar(total, loading.progress) as report:
            self._packing = Packing(pool, loading.weights, loading.head, report)
            self._trace = Trace()
            weights = Weights(checkpoint.tensors, self._packing)
            logits = architecture(self.config.model_type)(self._trace, self.config, weights, loading.context)
        program = self._trace.build(logits, loading.context)
        self._engine = _core.Engine(
            program.fused() if loading.fuse else program,
            pool,
            isa=loading.isa,
            context=loading.context,
            max_batch=loading.max_batch,
            prefill_chunk=loading.prefill_chunk,
        )
        self._running = Running(self._engine)

    def generate(
        self,
        prompt: str | list[str] | None = None,
        *,
        token_ids: list[int] | list[list[int]] | None = None,
        params: SamplingParams | None = None,
        parse_special: bool = False,
        **fields: object,
    ) -> Completion | list[Completion]:
        """Completes a prompt, or a list of them as one ragged batch.

        Exactly one of prompt (text) and token_ids. `fields` are fields of SamplingParams. Special-token text in a
        prompt is plain text unless parse_special. Raises ParameterError, ContextOverflow; a request that fails while
        it runs raises its error after the others of the list have been stopped.
        """
        prompts, single = self._prompts(prompt, token_ids, parse_special)
        chosen = SamplingParams.of(params, fields)
        requests = [_Request(self, ids, chosen) for ids in prompts]
        try:
            for request in requests:
                request.start()
            for request in requests:
                for _ in request.pieces():
                    pass
        finally:
            for request in requests:
                request.close()
        results = [request.progress.result() for request in requests]
        return results[0] if single else results

    def stream(
        self,
        prompt: str | None = None,
        *,
        token_ids: list[int] | None = None,
        params: SamplingParams | None = None,
        parse_special: bool = False,
        **fields: object,
    ) -> Stream:
        """Completes a prompt piece by piece: iterate for text; `.result()` is the Completion afterwards.

        Closing it (or leaving its `with` block) cancels the request and frees its memory. Raises as `generate` does.
        """
        prompts, single = self._prompts(prompt, token_ids, parse_special)
        if not single:
            raise ParameterError("prompt", expected="one prompt", found=f"a list of {len(prompts)}")
        return Stream(_Request(self, prompts[0], SamplingParams.of(params, fields)))

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """float32 [n_tokens, vocab_size]: what follows each prefix of token_ids; NaN where the weights overflow.

        Raises ParameterError, ContextOverflow.
        """
        return self._running.logits(_checked_ids(token_ids))

    def info(self) -> dict[str, object]:
        """What is loaded and how it runs."""
        return {
            "path": str(self.path),
            "architecture": self.config.model_type,
            "layers": self.config.n_layers,
            "dim": self.config.dim,
            "heads": self.config.n_heads,
            "kv_heads": self.config.n_kv_heads,
            "vocab_size": self.config.vocab_size,
            "parameters": sum(self._packing.formats.values()),
            "formats": dict(self._packing.formats),
            "packed_bytes": self._packing.packed_bytes,
            "kv_dtype": "f32",
            "kv_bytes": self._engine.kv_bytes,
            "context": self._loading.context,
            "threads": self._loading.n_threads,
            "isa": self._engine.isa,
        }

    def _prompts(self, prompt, token_ids, parse_special: bool) -> tuple[list[list[int]], bool]:
        if (prompt is None) == (token_ids is None):
            found = "neither" if prompt is None else "both"
            raise ParameterError("prompt", expected="exactly one of prompt and token_ids", found=found)
        if prompt is not None:
            single = isinstance(prompt, str)
            texts = [prompt] if single else prompt
            if not isinstance(texts, (list, tuple)):
                raise ParameterError("prompt", expected="a text or a list of texts", found=type(prompt).__name__)
            return [self.tokenizer.encode(text, parse_special=parse_special) for text in texts], single
        if not isinstance(token_ids, (list, tuple)):
            raise ParameterError("token_ids", expected="a list of integers", found=type(token_ids).__name__)
        single = not token_ids or not isinstance(token_ids[0], (list, tuple))
        return [_checked_ids(ids) for ids in ([token_ids] if single else token_ids)], single


def _checked_ids(ids: object) -> list[int]:
    if not isinstance(ids, (list, tuple)):
        raise ParameterError("token_ids", expected="a list of integers", found=type(ids).__name__)
    for i, token in enumerate(ids):
        if isinstance(token, bool) or not isinstance(token, int) or not -(2**31) <= token < 2**31:
            raise ParameterError(f"token_ids[{i}]", expected="an integer", found=shown(token))
    return list(ids)


class _Request:
    """One prompt on its way through the engine."""

    def __init__(self, model: Model, ids: list[int], params: SamplingParams) -> None:
        self._running, self._ids, self._params = model._running, ids, params
        self._eos_ids = model.config.eos_ids
        self._number: list[int] = []  # the engine's, while the request runs
        self.progress = Progress(model.tokenizer, params.stop, len(ids), self._eos_ids)

    def start(self) -> None:
        p = self._params
        self._running.begin(
            self._number,
            self._ids,
            max_tokens=p.max_tokens,
            temperature=p.temperature,
            top_k=p.top_k,
            top_p=max(p.top_p, _SMALLEST_F32),
            min_p=p.min_p,
            seed=p.seed,
            ignore_eos=p.ignore_eos,
            stop_ids=list(self._eos_ids),
        )

    def pieces(self) -> Iterator[str]:
        while self.progress.finish_reason is None:
            event = self._running.next_event(self._number[0])
            if event.error is not None:
                raise event.error
            text = self.progress.take(event.token, event.finished, event.reason)
            if text:
                yield text

    def close(self) -> None:
        """Cancels what still runs; harmless when all is done."""
        if self._number:
            self._running.end(self._number[0])
            self._number.clear()

    def __del__(self) -> None:
        for number in getattr(self, "_number", ()):
            self._running.abandon(number)


class Stream:
    """The text of a running request, piece by piece."""

    def __init__(self, request: _Request) -> None:
        self._request = request
        request.start()
        self._pieces = request.pieces()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels the request if it still runs."""
        self._pieces.close()
        self._request.close()

    def result(self) -> Completion:
        """What has been generated: all of it after the last piece, what there is so far before."""
        return self._request.progress.result()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def _progress_bar(total: int, wanted: bool) -> Iterator:
    """Yields a function that takes byte counts; shows a bar on a terminal if the load is long."""
    import sys

    if not wanted or total < 1 << 28 or not sys.stderr.isatty():
        yield lambda n_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("loading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=total)
        yield lambda n_bytes: bar.advance(task, n_bytes)
