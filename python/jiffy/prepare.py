"""A model from whatever stands for it: a packed file, the cache, or the files that it was published as."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .families import family_of_config, family_of_source
from .pack_cache import Slot
from .packed import is_packed, load_packed, packed_config
from .prepared import Prepared, pack_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from .families import Family
    from .loading import Loading


def family_of(path: Path) -> Family:
    """Which kind of a model a path leads to. Raises FormatError for a bad config, Unsupported for a packed file of
    another jiffy."""
    return family_of_config(packed_config(path)) if is_packed(path) else family_of_source(path)


def prepare(path: Path, loading: Loading) -> Prepared:
    """Raises as `jiffy.load` says."""
    if is_packed(path):
        return load_packed(path, loading)
    slot = Slot.of(path, loading) if loading.cache else None
    cached = slot.load(loading) if slot else None
    if cached:
        return cached
    model = pack_checkpoint(path, loading)
    if slot:
        slot.store(model)
    return model
