"""CTranslate2: run_ctranslate2_encoder.py FOLDER --threads N [--compute TYPE], an encoder of its converters."""

from __future__ import annotations

import json
import time
from pathlib import Path

import ctranslate2
import numpy as np
from suite import Engine, Generation, Prompts, Run, arguments, serve


class CTranslate2Encoder(Engine):
    def __init__(self, folder: Path, threads: int, compute: str | None) -> None:
        self._encoder = ctranslate2.Encoder(
            str(folder), device="cpu", compute_type=compute or "default", intra_threads=threads, inter_threads=1
        )
        self.vocab_size = len(json.loads((folder / "vocabulary.json").read_text()))
        self.version = f"ctranslate2 {ctranslate2.__version__}, computes in {self._encoder.compute_type}"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        started = time.perf_counter()
        np.array(self._encoder.forward_batch(prompts).last_hidden_state)  # it pads by itself
        return Generation.at_once(time.perf_counter() - started)


if __name__ == "__main__":
    given = arguments("--compute")
    serve(lambda: CTranslate2Encoder(Path(given.model), given.threads, given.compute))
