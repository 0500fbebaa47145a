"""The tokenizer in a GGUF file's metadata, as JSON; a list of numbers becomes an array, as its reader has it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

import tiny
from jiffy.tokenizer import Tokenizer

from .fuzz_tokenizer_json import check
from .mutation import mutated_json


def seeds() -> list[bytes]:
    tokens, merges = tiny.vocabulary(264)
    byte_level = {"model": "gpt2", "pre": "llama-bpe", "tokens": tokens, "token_type": [1] * 256 + [3] * 3 + [1] * 5}
    byte_level |= {"merges": [f"{a} {b}" for a, b in merges], "bos_token_id": 256, "eos_token_id": 257}
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abc", "ab", "\u2581ab"]
    types = [2, 3, 3, *[6] * 256, *[1] * 6]
    pieces_of_spm = {"model": "llama", "tokens": pieces, "token_type": types, "add_space_prefix": True}
    pieces_of_spm |= {"scores": [-float(i) for i in range(len(pieces))], "bos_token_id": 1, "eos_token_id": 2}
    return [
        json.dumps({f"tokenizer.ggml.{key}": value for key, value in values.items()}).encode()
        for values in (byte_level, pieces_of_spm)
    ]


def one(data: bytes, folder: Path) -> None:
    try:
        described = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(described, dict):
        check(Tokenizer.from_gguf({key: _as_read(value) for key, value in described.items()}))


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    return mutated_json(data, max_size, rng)


def _as_read(value: object) -> object:
    """Strings are UTF-8 and numbers have 64 bits at most, or the reader refuses the file."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if type(value) is int:
        return value & (1 << 64) - 1
    if not isinstance(value, list):
        return None if isinstance(value, dict) else value
    if value and all(type(one) is float for one in value):
        return np.array(value, np.float32)
    if value and all(type(one) in (int, float) for one in value):
        return np.array([int(one) & 0x7FFFFFFF for one in value], np.int32)
    return [_as_read(one) for one in value if isinstance(one, str)]
