"""What a tokenizer is read from: the metadata of a GGUF file, a Hugging Face folder; whole, or with a few changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import tiny
from jiffy.gguf import read_gguf


def metadata(tmp_path: Path, **changes: object) -> dict[str, object]:
    """A tiny GGUF file's metadata; changes by the last part of a key, and `...` takes a key out."""
    tiny.write_gguf_llama(tmp_path / "model.gguf", vocab_size=300)
    values = dict(read_gguf(tmp_path / "model.gguf").metadata)
    values |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not ...}


def folder(tmp_path: Path, config: dict | None = None, **files: str) -> Path:
    """A tiny Hugging Face folder; `config` replaces tokenizer_config.json."""
    tiny.write_hf_llama(tmp_path / "hf", vocab_size=300)
    if config is not None:
        (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (tmp_path / "hf" / name.replace("__", ".")).write_text(text)
    return tmp_path / "hf"


def spm_metadata(**changes: object) -> dict[str, object]:
    """SentencePiece with every byte, a few pieces and a token of the user's."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*"▁abc", "ab", "▁ab", "abc", "<tool>"]
    types = [2, 3, 3] + [6] * 256 + [1] * 7 + [4]
    values = {
        "model": "llama",
        "tokens": pieces,
        "token_type": np.array(types, "<i4"),
        "scores": np.array([0.0] * 263 + [-1.0, -2.0, -3.0, 0.0], "<f4"),
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not ...}
