"""A model made ready to run: traced programs with their weights, and what speaks of it in text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _core
from .families import AnyReader, Family, family_of_config, family_of_source
from .foreign_types import announce_conversions, is_taken_over
from .graph import Traced
from .loading import Loading, progress_bar
from .weights import Packing, Weights

if TYPE_CHECKING:
    from .named_files import NamedFiles


@dataclass(frozen=True)
class Prepared:
    """loading: with nothing left open. path: where the model came from, which may be a packed file.

    config: of the model's family (`packed_config.AnyConfig`). programs: by name. formats: weights by the name of their
    format, packed_bytes: of all weights; of an encoder without its head.
    text: of what was packed just now the files that `reader` was made from, or the metadata of a GGUF file. taken_over:
    whether every matrix was in the file as it is in memory, but for its order: then packing costs no more than reading.
    """

    path: Path
    loading: Loading
    pool: _core.ThreadPool
    config: Any
    reader: AnyReader
    programs: Mapping[str, Traced]
    text: NamedFiles | Mapping[str, object] | None = None
    taken_over: bool = False
    formats: dict[str, int] = field(init=False)
    packed_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        used = (p for name in self.family.body for p in self.programs[name].trace.used())
        weights = {id(p): p for p in used if isinstance(p, _core.Weight)}.values()
        formats: dict[str, int] = {}
        for weight in weights:
            formats[weight.format] = formats.get(weight.format, 0) + weight.rows * weight.cols
        object.__setattr__(self, "formats", formats)
        object.__setattr__(self, "packed_bytes", sum(weight.n_bytes for weight in weights))

    @property
    def family(self) -> Family:
        return family_of_config(self.config)

    @property
    def kv_dtype(self) -> str:
        return self.loading.kv_dtype_beside(self.formats)

    def runnable(self, name: str) -> _core.Program:
        """A program as it is to be run."""
        program = self.programs[name].program
        return program.fused() if self.loading.fuse else program


def pack_checkpoint(path: Path, loading: Loading) -> Prepared:
    """Reads all weights of a checkpoint. Raises FormatError, Unsupported, ParameterError, OutOfMemory."""
    family = family_of_source(path)
    checkpoint = family.open(path)
    config, tensors = checkpoint.config, checkpoint.tensors
    loading = loading.completed(config)
    reader = family.reader(checkpoint.text, config, loading)
    pool = _core.ThreadPool(loading.n_threads)
    total = sum(entry.n_bytes for entry in tensors.values())
    with progress_bar(total, loading.progress) as report:
        formats = loading.weights or checkpoint.weights, loading.head
        packing = Packing(pool, *formats, rotated=family.rotated, report=report)
        announce_conversions(tensors.values(), packing.format_of)
        programs = family.programs(config, Weights(tensors, packing), loading.context)
    matrices = [entry.dtype for entry in tensors.values() if len(entry.shape) > 1]
    taken_over = (loading.weights, loading.head) == (None, None) and all(map(is_taken_over, matrices))
    return Prepared(path, loading, pool, config, reader, programs, checkpoint.text, taken_over)
