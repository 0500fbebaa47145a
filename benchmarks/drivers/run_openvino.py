"""OpenVINO GenAI: run_openvino.py FOLDER --threads N, a folder that `optimum-cli export openvino` has written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai
from suite import Engine, Generation, Prompts, Run, arguments, serve


class OpenVino(Engine):
    def __init__(self, folder: Path, threads: int) -> None:
        self._pipeline = openvino_genai.LLMPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=threads)
        self.vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
        self.weight_bytes = (folder / "openvino_model.bin").stat().st_size
        self.version = f"openvino-genai {openvino_genai.get_version()}"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        new = run.new
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig(
            max_new_tokens=new, min_new_tokens=new, ignore_eos=True, do_sample=False, apply_chat_template=False
        )
        started = time.perf_counter()
        result = self._pipeline.generate(inputs, config)
        seconds = time.perf_counter() - started
        if any(len(tokens) != new for tokens in result.tokens):
            raise RuntimeError(f"asked for {new} tokens, got {[len(tokens) for tokens in result.tokens]}")
        # Its own clock says when each step's tokens were there; the first of them at the end of the prefill.
        moments = result.perf_metrics.raw_metrics.m_new_token_times
        behind_first = (moments[-1] - moments[0]) / 1e3
        return Generation(seconds - behind_first, seconds, len(prompts) * (new - 1))


if __name__ == "__main__":
    given = arguments()
    serve(lambda: OpenVino(Path(given.model), given.threads))
