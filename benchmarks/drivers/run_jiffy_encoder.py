"""jiffy: run_jiffy_encoder.py MODEL --threads N [--weights FORMAT] [--head FORMAT], the hidden rows of an
encoder.

Answers two requests more: {"check": n} compares a sequence's rows alone with those among n, and gives them; {"work":
{...run...}} counts what the instructions of a run read and compute.
"""

from __future__ import annotations

import random
import time
from itertools import chain
from typing import Any

import numpy as np
from suite import Engine, Generation, Prompts, Run, arguments, prompts, serve

import jiffy

_CHECKED_TOKENS = 32


class JiffyEncoder(Engine):
    def __init__(self, path: str, threads: int, weights: str | None, head: str | None) -> None:
        encoder = jiffy.load_encoder(path, weights=weights, head=head, n_threads=threads)
        self._native = encoder._native("hidden")
        info = encoder.info()
        self.vocab_size, self.weight_bytes = info["vocab_size"], info["packed_bytes"]
        self.version = f"jiffy {jiffy.__version__}, {info['isa']}, {info['kv_dtype']} keys and values"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        started = time.perf_counter()
        self._native.run(*_arrays(prompts))
        return Generation.at_once(time.perf_counter() - started)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "check" in request:
            return {"checked": True, "rows": self._checked(request["check"]).tolist()}
        return {"work": {"encode": self._work(Run(**request["work"]))}}

    def _checked(self, n: int) -> np.ndarray:
        """A sequence's rows: numbers, and the same alone and as the last of n, the others shorter and longer."""
        run = Run(batch=n, prompt=2 * _CHECKED_TOKENS, new=0, repeats=1, shortest=_CHECKED_TOKENS // 2)
        asked = prompts(random.Random(1), run, self.vocab_size)
        asked[-1] = [i % self.vocab_size for i in range(1, _CHECKED_TOKENS + 1)]
        alone = self._native.run(*_arrays(asked[-1:]))
        together = self._native.run(*_arrays(asked))[-_CHECKED_TOKENS:]
        if not np.isfinite(alone).all():
            raise jiffy.Error("hidden rows", expected="finite numbers", found="NaN or infinity")
        if not np.array_equal(alone, together):
            found = f"rows that differ by {np.abs(alone - together).max()}"
            raise jiffy.Error("hidden rows", expected=f"the same in a batch of {n}", found=found)
        return alone

    def _work(self, run: Run) -> dict[str, int]:
        profile = self._native.profile(*_arrays(prompts(random.Random(1), run, self.vocab_size)))
        read = {True: 0, False: 0}  # whether keys and values
        for at in profile:
            read["attention" in at.op or "kv_write" in at.op] += at.bytes
        operations = sum(at.operations for at in profile)
        return {"weight_bytes": read[False], "kv_bytes": read[True], "operations": operations, "tokens": run.batch}


def _arrays(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    return np.fromiter(chain.from_iterable(prompts), np.int32), np.array([len(prompt) for prompt in prompts])


if __name__ == "__main__":
    given = arguments("--weights", "--head")
    serve(lambda: JiffyEncoder(given.model, given.threads, given.weights, given.head))
