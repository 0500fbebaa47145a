"""tokenizer.json and the files beside it; what loads encodes a text and decodes its ids."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny
from jiffy.tokenizer import Tokenizer

from .json_folder import write_folder
from .mutation import mutated_json

_FILES = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json")
_TEXT = "ab <|eos|> c\u2581é 12\n\n<|bos|>"


def seeds() -> list[bytes]:
    byte_level = json.loads(tiny.tokenizer(262).to_str())
    beside = {
        "tokenizer_config.json": {"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>"}, "add_bos_token": True},
        "generation_config.json": {"eos_token_id": [256, 257]},
    }
    pieces = ["<unk>", "\u2581", "a", "b", "ab", "\u2581ab", *(f"<0x{byte:02X}>" for byte in range(8))]
    sentencepiece = {
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": ["a b", "\u2581 ab"],
        },
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    }
    folders = [{"tokenizer.json": byte_level, **beside}, {"tokenizer.json": sentencepiece}]
    return [json.dumps(folder).encode() for folder in folders]


def one(data: bytes, folder: Path) -> None:
    write_folder(data, folder, _FILES)
    check(Tokenizer.from_folder(folder))


def check(tokenizer: Tokenizer) -> None:
    for parse_special in (True, False):
        ids = tokenizer.encode(_TEXT, parse_special=parse_special)
        assert all(0 <= one < tokenizer.vocab_size for one in ids)
        tokenizer.decode(ids, skip_special=False)


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    return mutated_json(data, max_size, rng)
