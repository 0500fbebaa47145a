"""A driver for benchmarks/peers.py without an engine: fake_engine.py MODEL --threads N, where the name of MODEL says
what goes wrong ("good": nothing)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks/drivers"))
from suite import Engine, Generation, Prompts, Run, arguments, serve


class FakeEngine(Engine):
    """Each token takes a millisecond, says its clock."""

    def __init__(self, fault: str) -> None:
        self.version, self.vocab_size, self.weight_bytes, self._fault = "fake 1", 100, 1000, fault
        if fault == "does-not-load":
            raise ValueError("no such format")
        print("what libraries print goes elsewhere")

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        assert all(0 <= token < self.vocab_size for prompt in prompts for token in prompt)
        if self._fault == "fails" and len(prompts) > 1:
            raise RuntimeError("only one sequence")
        if self._fault == "dies":
            print("assertion failed: dying", file=sys.stderr, flush=True)
            os._exit(3)
        if self._fault == "hangs":
            time.sleep(600)
        later = len(prompts) * (run.new - 1)
        first = sum(map(len, prompts)) / 1e3
        return Generation(first, first + later / 1e3, later)


if __name__ == "__main__":
    given = arguments()
    serve(lambda: FakeEngine(Path(given.model).name))
