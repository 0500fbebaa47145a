"""The head of a packed file, in a file that has it right otherwise; what loads must compute, too."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

import jiffy
import tiny
from jiffy import _core
from packed_head import body_of, write_body


@cache
def _good() -> Path:
    folder = Path(tempfile.mkdtemp())
    tiny.write_hf_llama(folder / "model", dim=32, ffn_dim=32, n_layers=1, n_heads=2, n_kv_heads=1)
    jiffy.pack(folder / "model", folder / "good.jiffy", weights="i4", n_threads=1)
    return folder / "good.jiffy"


@cache
def _pool() -> _core.ThreadPool:
    return _core.ThreadPool(1)


def seeds() -> list[bytes]:
    return [body_of(_good())]


def one(data: bytes, folder: Path) -> None:
    path = folder / "one.jiffy"
    shutil.copy(_good(), path)
    write_body(path, data)
    programs = [program for _, program, _ in _core.PackedFile(bytes(path)).programs(16, _pool())]
    for either in [*programs, *(program.fused() for program in programs)]:
        options = {"isa": jiffy.isas()[-1], "context": 16, "max_batch": 1, "prefill_chunk": 16}
        _core.Engine(either, _pool(), **options).logits([1, 2, 3])
