"""config.json of an encoder, and what sentence-transformers writes beside it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny_encoders
from jiffy.encoder_checkpoint import _wanted
from jiffy.encoder_config import EncoderConfig, is_encoder
from jiffy.sentence_config import Embedding

from .json_folder import write_folder
from .mutation import mutated_json

_FILES = ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json")


def seeds() -> list[bytes]:
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"} for kind in ("Pooling", "Normalize")
    ]
    beside = {
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        "sentence_bert_config.json": {"max_seq_length": 99},
    }
    found = []
    for name, (prefix, config_class, options) in tiny_encoders.CONFIGS.items():
        task = list(tiny_encoders.TASKS.values())[len(name) % len(tiny_encoders.TASKS)]
        config = {**config_class(**options).to_dict(), "architectures": [prefix + task]}
        found.append(json.dumps({"config.json": config, **beside}).encode())
    return found


def one(data: bytes, folder: Path) -> None:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_folder(data, folder, _FILES)
    is_encoder(folder)
    embedding = Embedding.of(folder)
    assert embedding.pooling in ("mean", "first", "max", "last")
    config = EncoderConfig.from_hf(folder)
    assert config.head_dim % 2 == 0 and config.head_dim * config.n_heads == config.dim
    assert min(config.ffn_dim, config.vocab_size, config.embedding_dim, config.context_length) > 0
    assert len(config.weights_of) == len(config.windows) == config.n_layers
    assert all(min(wanted.shape) > 0 for wanted in _wanted(config))


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    return mutated_json(data, max_size, rng)
