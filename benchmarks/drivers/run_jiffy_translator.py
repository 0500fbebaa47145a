"""jiffy: run_jiffy_translator.py MODEL --threads N [--weights FORMAT] [--head FORMAT], an encoder-decoder.

Answers one request more: {"check": n} compares a translation alone with the one among n. What a run reads and computes
is not counted.
"""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
from suite import Engine, Generation, Prompts, Run, arguments, prompts, serve

import jiffy

_CHECKED = Run(batch=1, prompt=24, new=16, repeats=1)


class JiffyTranslator(Engine):
    def __init__(self, path: str, threads: int, weights: str | None, head: str | None) -> None:
        self._model = jiffy.load(path, weights=weights, head=head, n_threads=threads)
        info = self._model.info()
        self.vocab_size, self.weight_bytes = info["vocab_size"], info["packed_bytes"]
        self.version = f"jiffy {jiffy.__version__}, {info['isa']}, {info['kv_dtype']} keys and values"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        started = time.perf_counter()
        self._translations(prompts, run)
        return Generation.at_once(time.perf_counter() - started)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "check" in request:
            self._check(request["check"])
            return {"checked": True}
        return {"work": {}}

    def _translations(self, prompts: Prompts, run: Run) -> list[list[int]]:
        length = {"min_tokens": run.new, "max_tokens": run.new, "forced_eos_token_id": None}
        results = self._model.generate(token_ids=prompts, n_beams=run.beams, **length)
        if any(len(result.token_ids) != run.new for result in results):
            raise RuntimeError(f"asked for {run.new} tokens, got {[len(result.token_ids) for result in results]}")
        return [result.token_ids for result in results]

    def _check(self, n: int) -> None:
        asked = prompts(random.Random(1), Run(n, _CHECKED.prompt, _CHECKED.new, repeats=1), self.vocab_size)
        alone = self._translations(asked[:1], _CHECKED)[0]
        if not np.isfinite(self._model.logits(asked[0], alone)).all():
            raise jiffy.Error("logits", expected="finite numbers", found="NaN or infinity")
        together = self._translations(asked, _CHECKED)[0]
        if together != alone:
            raise jiffy.Error("translation", expected=f"the tokens {alone} in a batch of {n} too", found=str(together))


if __name__ == "__main__":
    given = arguments("--weights", "--head")
    serve(lambda: JiffyTranslator(given.model, given.threads, given.weights, given.head))
