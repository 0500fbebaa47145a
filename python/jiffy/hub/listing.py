"""The models that have a name, and those that the caches of this machine hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .names import DEFAULT_REVISION, MODELS, Alias, HubModel
from .packages import PinnedFile, PinnedFolder, is_cached
from .repositories import cached_repository, recorded_models

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo


@dataclass(frozen=True)
class Listed:
    """name: what `jiffy.load` takes. size: bytes of the files, or of the weights where they aren't here. source: a
    package or a repository on the hub. path: where the model lies, None if it has to be fetched."""

    name: str
    title: str
    size: int
    source: str
    path: str | None


def list_models() -> list[Listed]:
    """The names that jiffy knows, then what else has been fetched or lies in the hub's cache; no network is used.

    Raises FormatError for jiffy's own cache folder if it can't be read.
    """
    listed = [_known(name, entry) for name, entry in MODELS.items()]
    there = {entry.path for entry in listed}
    for model, path in chain(recorded_models().items(), _cached()):
        if str(path) not in there:
            there.add(str(path))
            size = _bytes_below(path)
            listed.append(Listed(str(model), model.repo.partition("/")[2], size, model.repo, str(path)))
    return listed


def _known(name: str, entry: PinnedFile | PinnedFolder | Alias) -> Listed:
    if isinstance(entry, (PinnedFile, PinnedFolder)):
        place, source = entry.path if is_cached(entry) else None, f"package {entry.requirement}"
    else:
        place, source = cached_repository(entry.model), entry.repo
    size = entry.size if place is None else _bytes_below(place)
    return Listed(name, entry.title, size, source, None if place is None else str(place))


def _cached() -> Iterator[tuple[HubModel, Path]]:
    """Every model that is whole in the hub's cache, whoever put it there."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = sorted(scan_cache_dir().repos, key=lambda repository: repository.repo_id)
    except CacheNotFound:
        return
    for repository in repositories:
        for model in _models_of(repository):
            path = cached_repository(model)
            if path is not None:
                yield model, path


def _models_of(repository: CachedRepoInfo) -> Iterator[HubModel]:
    """What could be loaded of a repository: each of its GGUF files, and its folder."""
    if repository.repo_type != "model" or HubModel.parse(repository.repo_id) is None:
        return
    for revision in sorted(repository.revisions, key=lambda revision: revision.commit_hash):
        names = {file.file_path.relative_to(revision.snapshot_path).as_posix() for file in revision.files}
        refs = sorted(revision.refs, key=lambda ref: (ref != DEFAULT_REVISION, ref))
        name = next(iter(refs), revision.commit_hash)
        gguf = sorted(name for name in names if name.endswith(".gguf"))
        for file in gguf or [None]:
            yield HubModel(repository.repo_id, name, file)


def _bytes_below(path: Path) -> int:
    files = [path] if path.is_file() else path.iterdir()
    return sum(file.stat().st_size for file in files if file.is_file())
