"""ONNX Runtime: run_onnxruntime_encoder.py FILE.onnx --threads N, an encoder whose first output is the hidden rows."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
from padding import padded
from suite import Engine, Generation, Prompts, Run, arguments, serve

_SMALLEST_VOCABULARY = 30000  # the file doesn't say; of the encoders that are compared none has fewer tokens


class OnnxRuntimeEncoder(Engine):
    def __init__(self, path: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._types = {one.name: np.int64 if "int64" in one.type else np.int32 for one in self._session.get_inputs()}
        self._output = self._session.get_outputs()[0].name
        self.vocab_size = _SMALLEST_VOCABULARY
        self.version = f"onnxruntime {onnxruntime.__version__}"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        started = time.perf_counter()
        arrays = padded(prompts)
        self._session.run([self._output], {name: arrays[name].astype(kind) for name, kind in self._types.items()})
        return Generation.at_once(time.perf_counter() - started)


if __name__ == "__main__":
    given = arguments()
    serve(lambda: OnnxRuntimeEncoder(given.model, given.threads))
