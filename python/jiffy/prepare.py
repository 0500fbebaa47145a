"""A model from whatever stands for it: a packed file, the cache, or the files that it was published as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .checkpoint import open_checkpoint
from .pack_cache import Slot
from .packed import is_packed, load_packed
from .prepared import Prepared, pack_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from .loading import Loading


def prepare(path: Path, loading: Loading) -> Prepared:
    """Raises as `jiffy.load` says."""
    if is_packed(path):
        return load_packed(path, loading)
    slot = Slot.of(path, loading) if loading.cache else None
    cached = slot.load(loading) if slot else None
    if cached:
        return cached
    model = pack_checkpoint(open_checkpoint(path), loading)
    if slot:
        slot.store(model)
    return model
