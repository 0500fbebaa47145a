"""A model made ready to run: a traced program with its weights, and what speaks of it in text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import _core
from .foreign_types import announce_conversions, is_taken_over
from .graph import Trace
from .loading import Loading, progress_bar
from .models import architecture
from .tokenizer import Tokenizer
from .weights import Packing, Weights

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .config import Config


@dataclass(frozen=True)
class Prepared:
    """loading: with nothing left open. path: where the model came from, which may be a packed file.

    trace: its instructions, parameters and marks. formats: weights by the name of their format.
    checkpoint: what was packed just now; None for what was packed before.
    """

    path: Path
    loading: Loading
    pool: _core.ThreadPool
    config: Config
    tokenizer: Tokenizer
    trace: Trace
    program: _core.Program
    checkpoint: Checkpoint | None = None
    formats: dict[str, int] = field(init=False)
    packed_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        weights = [p for _, p in self.trace.parameters if isinstance(p, _core.Weight)]
        formats: dict[str, int] = {}
        for weight in weights:
            formats[weight.format] = formats.get(weight.format, 0) + weight.rows * weight.cols
        object.__setattr__(self, "formats", formats)
        object.__setattr__(self, "packed_bytes", sum(weight.n_bytes for weight in weights))

    @property
    def taken_over(self) -> bool:
        """Whether every matrix was in the file as it is in memory, but for its order: then packing costs no more than
        reading does."""
        entries = self.checkpoint.tensors.values() if self.checkpoint else ()
        chosen = self.loading.weights, self.loading.head
        return chosen == (None, None) and all(is_taken_over(entry.dtype) for entry in entries if len(entry.shape) > 1)


def pack_checkpoint(checkpoint: Checkpoint, loading: Loading) -> Prepared:
    """Reads all weights of a checkpoint. Raises FormatError, Unsupported, ParameterError, OutOfMemory."""
    config = checkpoint.config
    loading = loading.completed(config)
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
    pool = _core.ThreadPool(loading.n_threads)
    trace = Trace()
    total = sum(entry.n_bytes for entry in checkpoint.tensors.values())
    with progress_bar(total, loading.progress) as report:
        packing = Packing(pool, loading.weights, loading.head, report)
        announce_conversions(checkpoint.tensors.values(), packing.format_of)
        weights = Weights(checkpoint.tensors, packing)
        logits = architecture(config.model_type)(trace, config, weights, loading.context)
    program = trace.build(logits, loading.context)
    return Prepared(checkpoint.path, loading, pool, config, tokenizer, trace, program, checkpoint)
