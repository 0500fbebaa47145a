"""llama.cpp, as llama-cpp-python binds it: run_llamacpp.py FILE.gguf --threads N

The low-level interface, without a sampler: logits are computed, the next token is given. That leaves out work which
jiffy's own times contain.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import llama_cpp
from suite import Engine, Generation, Prompts, Run, arguments, serve

_POSITIONS = 4096  # of all sequences together
_BATCH = 2048  # rows in one call
_SEQUENCES = 64
_GIVEN_TOKEN = 100  # stands for whatever a sampler would choose


class LlamaCpp(Engine):
    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = not _has_amx()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise ValueError(f"llama.cpp can't load {path}")
        self._context = llama_cpp.llama_init_from_model(self._model, _context_params(threads))
        if not self._context:
            raise ValueError("llama.cpp can't make a context")
        self._batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self.weight_bytes = os.path.getsize(path)  # a tied embedding is the head, too
        self.version = f"llama-cpp-python {llama_cpp.__version__}"
        if not params.use_extra_bufts:
            self.version += ", without buffers for AMX and repacked weights"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        started = time.perf_counter()
        last_of = [len(prompt) - 1 for prompt in prompts]
        self._compute([(t, i, s, i == last_of[s]) for s, prompt in enumerate(prompts) for i, t in enumerate(prompt)])
        first = time.perf_counter() - started
        for step in range(1, run.new):
            self._compute([(_GIVEN_TOKEN, last + step, s, True) for s, last in enumerate(last_of)])
        return Generation(first, time.perf_counter() - started, len(prompts) * (run.new - 1))

    def _compute(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of (token, position, sequence, whether its logits are wanted)."""
        for begin in range(0, len(rows), _BATCH):
            piece = rows[begin : begin + _BATCH]
            batch = self._batch
            batch.n_tokens = len(piece)
            for i, (token, position, sequence, wanted) in enumerate(piece):
                batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            status = llama_cpp.llama_decode(self._context, batch)
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status} for {len(piece)} rows")
        llama_cpp.llama_synchronize(self._context)


def _has_amx() -> bool:
    """Whether llama.cpp would keep weights in buffers for AMX, where it crashes (0.3.36, Granite Rapids)."""
    cpu = Path("/proc/cpuinfo")
    return cpu.exists() and "amx_int8" in cpu.read_text()


def _context_params(threads: int) -> llama_cpp.llama_context_params:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_seq_max = _POSITIONS, _BATCH, _SEQUENCES
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True  # else each sequence gets n_ctx / n_seq_max positions
    return params


if __name__ == "__main__":
    given = arguments()
    serve(lambda: LlamaCpp(given.model, given.threads))
