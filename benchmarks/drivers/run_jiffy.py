"""jiffy: run_jiffy.py MODEL --threads N [--weights FORMAT] [--head FORMAT]

Steps the engine with greedy sampling. Answers two requests more: {"check": n} compares an answer alone with the one
among n, {"work": {...run...}} counts what the instructions of a run read and compute.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from suite import Engine, Generation, Prompts, Run, arguments, prompts, serve

import jiffy
from jiffy.bench.model import GREEDY, check


class Jiffy(Engine):
    def __init__(self, path: str, threads: int, weights: str | None, head: str | None) -> None:
        self._model = jiffy.load(path, weights=weights, head=head, n_threads=threads)
        self._engine = self._model._engine
        info = self._model.info()
        self.vocab_size, self.weight_bytes = info["vocab_size"], info["packed_bytes"]
        self.version = f"jiffy {jiffy.__version__}, {info['isa']}, {info['kv_dtype']} keys and values"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        return self._stepped(prompts, run.new, lambda begun: self._engine.step())

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if "check" in request:
            check(self._model, request["check"])
            return {"checked": True}
        return {"work": self._work(Run(**request["work"]))}

    def _stepped(self, prompts: Prompts, new: int, step: Callable[[bool], list]) -> Generation:
        """step: given whether every sequence has begun, returns the tokens of one step."""
        started = time.perf_counter()
        for prompt in prompts:
            self._engine.add(prompt, max_tokens=new, **GREEDY)
        begun: set[int] = set()
        first, later = 0.0, 0
        while not self._engine.idle():
            all_begun = len(begun) == len(prompts)
            events = step(all_begun)
            later += len(events) if all_begun else 0
            begun.update(event.request for event in events)
            if not all_begun:
                first = time.perf_counter() - started
        return Generation(first, time.perf_counter() - started, later)

    def _work(self, run: Run) -> dict[str, Any]:
        """For the prefill and the decode steps of a run: bytes of weights, bytes of keys and values, operations."""
        work = {
            part: {"steps": 0, "weight_bytes": 0, "kv_bytes": 0, "operations": 0, "tokens": 0}
            for part in ("prefill", "decode")
        }

        def observed(all_begun: bool) -> list:
            events, profile = self._engine.profile_step()
            sums = work["decode" if all_begun else "prefill"]
            sums["steps"] += 1
            for at in profile:
                is_kv = "attention" in at.op or "kv_write" in at.op
                sums["kv_bytes" if is_kv else "weight_bytes"] += at.bytes
                sums["operations"] += at.operations
            return events

        generation = self._stepped(prompts(random.Random(1), run, self.vocab_size), run.new, observed)
        work["prefill"]["tokens"], work["decode"]["tokens"] = run.batch * run.prompt, generation.later_tokens
        return work


if __name__ == "__main__":
    given = arguments("--weights", "--head")
    serve(lambda: Jiffy(given.model, given.threads, given.weights, given.head))
