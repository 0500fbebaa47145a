"""OpenVINO: run_openvino_encoder.py FOLDER --threads N, an encoder that `optimum-cli export openvino` has written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import openvino
from padding import padded
from suite import Engine, Generation, Prompts, Run, arguments, serve


class OpenVinoEncoder(Engine):
    def __init__(self, folder: Path, threads: int) -> None:
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        model = openvino.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", options)
        self._inputs = {name for one in model.inputs for name in one.get_names()}
        self._request = model.create_infer_request()
        self.vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
        precision = model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.version = f"openvino {openvino.get_version()}, computes in {precision}"

    def generate(self, prompts: Prompts, run: Run) -> Generation:
        started = time.perf_counter()
        inputs = {name: array for name, array in padded(prompts).items() if name in self._inputs}
        self._request.infer(inputs, share_inputs=True, share_outputs=True)
        return Generation.at_once(time.perf_counter() - started)


if __name__ == "__main__":
    given = arguments()
    serve(lambda: OpenVinoEncoder(Path(given.model), given.threads))
