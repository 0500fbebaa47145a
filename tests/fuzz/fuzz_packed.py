"""The head of a packed file, in a file that has it right otherwise; what loads must compute, too. The first byte of an
input says of which family the file is."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

import jiffy
import tiny
import tiny_encoders
import tiny_marian
from jiffy import _core
from packed_head import body_of, write_body

_WRITERS = {
    b"m": lambda folder: tiny.write_hf_llama(folder, dim=32, ffn_dim=32, n_layers=1, n_heads=2, n_kv_heads=1),
    b"e": lambda folder: tiny_encoders.write(folder, "bert", "sequence"),
    b"s": tiny_marian.write_marian,
}
_OPTIONS = {"isa": jiffy.isas()[-1], "context": 16}


@cache
def _good(family: bytes) -> Path:
    folder = Path(tempfile.mkdtemp())
    _WRITERS[family](folder / "model")
    jiffy.pack(folder / "model", folder / "good.jiffy", weights="i4", n_threads=1)
    return folder / "good.jiffy"


@cache
def _pool() -> _core.ThreadPool:
    return _core.ThreadPool(1)


def seeds() -> list[bytes]:
    return [family + body_of(_good(family)) for family in _WRITERS]


def one(data: bytes, folder: Path) -> None:
    path = folder / "one.jiffy"
    shutil.copy(_good(data[:1] if data[:1] in _WRITERS else b"m"), path)
    write_body(path, data[1:])
    programs = [program for _, program, _ in _core.PackedFile(bytes(path)).programs(16, _pool())]
    for program in [*programs, *(program.fused() for program in programs)]:
        with suppress(jiffy.Error):
            _core.Engine(program, _pool(), **_OPTIONS, max_batch=1, prefill_chunk=16).logits([1, 2, 3])
        with suppress(jiffy.Error):
            _core.Encoder(program, _pool(), **_OPTIONS).run(np.array([1, 2, 3], np.int32), np.array([3]))
