"""config.json and the files beside it; and, as "gguf" and "tensors" of an input, a GGUF file's metadata and names."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import tiny
from jiffy.config import Config
from jiffy.gguf import GGUFFile, read_gguf

from .json_folder import write_folder
from .mutation import mutated_json

_FILES = ("config.json", "generation_config.json", "tokenizer_config.json")


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write_hf_llama(folder, sliding_window=None, rope_scaling={"rope_type": "default"})
        tiny.write_gguf_llama(folder / "model.gguf")
        files = {name: json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer_config.json")}
        files["generation_config.json"] = {"eos_token_id": [1, 2]}
        kept = {key: value for key, value in read_gguf(folder / "model.gguf").metadata.items() if "ggml" not in key}
        ids = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}
        gguf = {**kept, **ids, "tokenizer.ggml.tokens": ["a", "b", "c"], "llama.vocab_size": 3}
        return [json.dumps(one).encode() for one in (files, {"gguf": gguf, "tensors": ["output.weight"]})]


def one(data: bytes, folder: Path) -> None:
    described = write_folder(data, folder, _FILES)
    if isinstance(described.get("gguf"), dict):
        names = described.get("tensors")
        tensors = dict.fromkeys(map(str, names)) if isinstance(names, list) else {}
        config = Config.from_gguf(GGUFFile(Path("model.gguf"), 3, described["gguf"], tensors))
    else:
        config = Config.from_hf(folder)
    assert config.n_heads % config.n_kv_heads == 0 and config.head_dim % 2 == 0
    ids = [*config.eos_ids, 0 if config.bos_id is None else config.bos_id]
    assert all(0 <= one < config.vocab_size for one in ids)
    assert 0 < config.norm_eps < 1 < config.rope_theta < float("inf")
    assert min(config.dim, config.ffn_dim, config.n_layers, config.context_length) > 0


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    return mutated_json(data, max_size, rng)
