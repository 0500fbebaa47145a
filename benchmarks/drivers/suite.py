"""What every engine of a comparison is asked, and how it is timed. Needs the standard library alone.

A driver is a program that any Python may run: `run_NAME.py MODEL --threads N` loads a model, then answers requests, one
JSON object a line each, on standard input and output. All drivers time the same thing from outside: when results
arrive.

    prefill     prompt tokens / seconds until every sequence has its first token
    decode      tokens that come after that moment / seconds from it to the last token
    encode      sequences / seconds until every token of all has its last hidden row
    translate   tokens of the best translations / seconds from the sources to the last of those

Prompts are random token ids, new ones each time, so that no cache of prefixes can help.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

Prompts = list[list[int]]


@dataclass(frozen=True)
class Generation:
    """first: seconds until every sequence has a token. later_tokens arrive between `first` and `last`."""

    first: float
    last: float
    later_tokens: int

    @classmethod
    def at_once(cls, seconds: float) -> Generation:
        """Of results that come all together."""
        return cls(seconds, seconds, 0)


@dataclass(frozen=True)
class Run:
    """What is asked at once: `batch` sequences of `prompt` random tokens, `new` more for each, `repeats` times.

    shortest: if not 0, sequences have so many tokens to `prompt`, in even steps and random order: one batch, which
    engines that need sequences of one length fill up to the longest. beams: of a beam search; 1 is greedy.
    """

    batch: int
    prompt: int
    new: int
    repeats: int
    warmups: int = 0
    shortest: int = 0
    beams: int = 1

    def lengths(self) -> list[int]:
        least, steps = self.shortest or self.prompt, max(1, self.batch - 1)
        return [least + (self.prompt - least) * i // steps for i in range(self.batch)]


class Engine(ABC):
    """weight_bytes: read for each decode step, whatever the batch; None where nobody can tell."""

    version: str
    vocab_size: int
    weight_bytes: int | None = None

    @abstractmethod
    def generate(self, prompts: Prompts, run: Run) -> Generation:
        """Computes the prompts and `run.new` tokens behind each, without stopping early; or what is made of them."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """For requests that one driver alone understands."""
        raise ValueError(f"unknown request {sorted(request)}")


def arguments(*more: str) -> argparse.Namespace:
    """MODEL, --threads, and options of one driver."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    for option in more:
        parser.add_argument(option)
    return parser.parse_args()


def serve(load: Callable[[], Engine]) -> None:
    """Loads, says what was loaded, and answers until standard input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps({**answer, "peak_bytes": _peak_bytes()}), file=channel, flush=True)

    started = time.perf_counter()
    try:
        engine = load()
    except Exception as error:
        say({"error": f"{type(error).__name__}: {error}"})
        raise
    seconds = time.perf_counter() - started
    say({"load_seconds": seconds, "version": engine.version, "weight_bytes": engine.weight_bytes})
    rng = random.Random(0)
    for line in sys.stdin:
        say(_answer(engine, json.loads(line), rng))


def prompts(rng: random.Random, run: Run, vocab_size: int) -> Prompts:
    lengths = run.lengths()
    rng.shuffle(lengths)
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]


def _peak_bytes() -> int:
    """Resident, of this program alone: getrusage's maximum counts what its process was before, too."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _answer(engine: Engine, request: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    try:
        if "run" in request:
            return {"generations": _timed(engine, Run(**request["run"]), rng)}
        return engine.answer(request)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _timed(engine: Engine, run: Run, rng: random.Random) -> list[dict[str, Any]]:
    generations = [engine.generate(prompts(rng, run, engine.vocab_size), run) for _ in range(run.warmups + run.repeats)]
    return [asdict(g) for g in generations[run.warmups :]]
