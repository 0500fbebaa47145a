"""The arguments of `jiffy.load`, checked and completed, and what one sees meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import _core
from .arguments import integer, one_of
from .errors import OutOfMemory, ParameterError, shown

if TYPE_CHECKING:
    from pathlib import Path

    from .packed_config import AnyConfig

_DEFAULT_CONTEXT = 8192  # positions, unless the model has fewer: memory for KV is set aside for all of them
KV_DTYPES = ["f32", "bf16", "int8"]


@dataclass(frozen=True)
class Loading:
    """How a model is loaded and run; `jiffy.load` describes the fields. Raises ParameterError naming the field."""

    weights: str | None
    head: str | None
    kv_dtype: str
    n_threads: int | None
    isa: str | None
    context: int | None
    prefill_chunk: int
    max_batch: int
    prefix_cache: bool
    progress: bool
    fuse: bool
    cache: bool = True
    shortlist: str | os.PathLike[str] | bool = False

    def __post_init__(self) -> None:
        self._one_of("kv_dtype", ["auto", *KV_DTYPES])
        self._one_of("weights", [None, *_core.format_names()])
        self._one_of("head", [None, *_core.format_names()])
        self._one_of("isa", [None, *_core.isas()])
        self._count("n_threads", 1024, optional=True)
        self._count("context", 2**31 - 1, optional=True)
        self._count("prefill_chunk", 65536)
        self._count("max_batch", 65536)
        for name in ("prefix_cache", "progress", "fuse", "cache"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(name, expected="True or False", found=shown(getattr(self, name)))
        if not isinstance(self.shortlist, (str, os.PathLike, bool)):
            raise ParameterError("shortlist", expected="a path, True or False", found=shown(self.shortlist))

    def completed(self, config: AnyConfig) -> Loading:
        """With this machine's and the model's own values for what was left open."""
        length = config.context_length
        if self.context is not None and self.context > length:
            raise ParameterError("context", expected=f"at most the model's {length} positions", found=str(self.context))
        return replace(
            self,
            n_threads=self.n_threads or _core.cpu_info().default_threads,
            isa=self.isa or _core.isas()[-1],
            context=self.context or min(config.usual_context, _DEFAULT_CONTEXT),
        )

    def kv_dtype_beside(self, formats: Iterable[str]) -> str:
        """The type of keys and values, beside weights in these formats."""
        if self.kv_dtype != "auto":
            return self.kv_dtype
        return "f32" if set(formats) == {"f32"} else "bf16"

    def _one_of(self, name: str, values: list[str | None]) -> None:
        one_of(name, getattr(self, name), values)

    def _count(self, name: str, most: int, optional: bool = False) -> None:
        if not optional or getattr(self, name) is not None:
            integer(name, getattr(self, name), 1, most)


@contextmanager
def progress_bar(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes byte counts; shows a bar on a terminal if the load is long."""
    import sys

    if not wanted or total < 1 << 28 or not sys.stderr.isatty():
        yield lambda n_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("loading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=total)
        yield lambda n_bytes: bar.advance(task, n_bytes)


@contextmanager
def memory_errors(path: Path, context: int | None) -> Iterator[None]:
    """Turns numpy's MemoryError into an OutOfMemory that says what for."""
    try:
        yield
    except MemoryError as error:
        if isinstance(error, OutOfMemory):
            raise
        expected = "memory for weights and " + ("the context" if context is None else f"a context of {context}")
        raise OutOfMemory(str(path), expected=expected, found=str(error) or "too little") from None
