"""CTranslate2: run_ctranslate2_translator.py FOLDER --threads N [--compute TYPE], an encoder-decoder of its
converters."""

from __future__ import annotations

import json
import time
from pathlib import Path

import ctranslate2
from suite import Engine, Generation, Prompts, Run, arguments, serve


class CTranslate2Translator(Engine):
    def __init__(self, folder: Path, threads: int, compute: str | None) -> None:
        self._translator = ctranslate2.Translator(
            str(folder), device="cpu", compute_type=compute or "default", intra_threads=threads, inter_threads=1
        )
        self._tokens = json.loads((folder / "shared_vocabulary.json").read_text())
        self.vocab_size = len(self._tokens)
        self.version = f"ctranslate2 {ctranslate2.__version__}, computes in {self._translator.compute_type}"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        sources = [[self._tokens[i] for i in prompt] for prompt in prompts]
        length = {"min_decoding_length": run.new, "max_decoding_length": run.new}
        started = time.perf_counter()
        results = self._translator.translate_batch(sources, beam_size=run.beams, max_batch_size=0, **length)
        seconds = time.perf_counter() - started
        if any(len(result.hypotheses[0]) != run.new for result in results):
            raise RuntimeError(f"asked for {run.new} tokens, got {[len(result.hypotheses[0]) for result in results]}")
        return Generation.at_once(seconds)


if __name__ == "__main__":
    given = arguments("--compute")
    serve(lambda: CTranslate2Translator(Path(given.model), given.threads, given.compute))
