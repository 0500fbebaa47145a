"""Models on the Hugging Face hub, fetched through the library huggingface_hub into its cache.

A fetch that has succeeded is recorded in jiffy's own cache folder; as long as the recorded files are there, no network
is used for that model again, even where its revision is a branch. (The hub's cache alone doesn't tell whether all of a
model is there: other programs put parts of models into it.)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import Error, FormatError
from ..files import read_json
from ..notice import notify
from .cache import cache_folder, is_offline
from .hub_errors import hub_errors
from .names import HubModel
from .selection import select_files

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT = 30.0  # seconds until the hub's listing has to begin


def fetch_repository(model: HubModel, progress: bool = True) -> Path:
    """The model's folder, or its .gguf file, in the hub's cache; what isn't there is fetched.

    All files come from one commit. The library resumes a file when the connection breaks, and keeps whole files when it
    gives up; tokens, endpoint, proxies and $HF_HOME are its business too. HF_HUB_OFFLINE and JIFFY_OFFLINE forbid the
    network; where it fails, a model that another program has put into the cache will do. Raises as `select_files` and
    `hub_errors` do.
    """
    found = _recorded(model)
    if found is not None:
        return found
    from huggingface_hub import is_offline_mode

    if is_offline() or is_offline_mode():
        return _offline(model)
    try:
        with hub_errors(model):
            snapshot, sizes = _download(model, progress)
    except FormatError as error:
        found = cached_repository(model)
        if found is None:
            raise
        notify(f"{model} comes from the cache, without a look at the hub ({error.found})")
        return found
    _record(model, snapshot, sizes)
    return _place(snapshot, sizes)


def cached_repository(model: HubModel) -> Path | None:
    """Where the model lies on this disk, or None; never uses the network."""
    found = _recorded(model)
    if found is not None:
        return found
    snapshot = _snapshot(model)
    if snapshot is None:
        return None
    names = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
    try:
        return _place(snapshot, select_files(model, names, snapshot.joinpath))
    except Error:
        return None


def _offline(model: HubModel) -> Path:
    found = cached_repository(model)
    if found is None:
        name = "JIFFY_OFFLINE" if is_offline() else "HF_HUB_OFFLINE"
        expected = f"it in the hub's cache (unset {name} to fetch it, or give a path to a model)"
        raise FormatError(str(model), expected=expected, found=f"not all of it, and {name} forbids a fetch")
    return found


def _download(model: HubModel, progress: bool) -> tuple[Path, dict[str, int]]:
    """The snapshot's folder, and the sizes of the model's files in it by name."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(model.repo, revision=model.revision, files_metadata=True, timeout=_TIMEOUT)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    if not _COMMIT.fullmatch(info.sha or ""):
        raise ValueError(f"a commit that is none: {info.sha}")

    def fetched(name: str) -> Path:
        return Path(hf_hub_download(model.repo, name, revision=info.sha, tqdm_class=_bar(progress)))

    names = select_files(model, sizes, fetched)
    snapshot = _cache_of(model.repo) / "snapshots" / info.sha
    if not all((snapshot / name).exists() for name in names):
        size = sum(sizes[name] for name in names) / 1e6
        notify(f"fetching {model} ({size:.3g} MB, commit {info.sha[:10]}) into {_cache_of(model.repo)}")
    return snapshot, {name: fetched(name).stat().st_size for name in names}


def _bar(progress: bool) -> type:
    """The library's progress bar, which shows itself on terminals only; or one that never does."""
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options | {"disable": True})

    return tqdm if progress else NoBar


def _place(snapshot: Path, names: Iterable[str]) -> Path:
    """What `open_checkpoint` takes: the .gguf file if it is one, else the folder."""
    return next((snapshot / name for name in names if name.endswith(".gguf")), snapshot)


def _cache_of(repo: str) -> Path:
    """The folder of a repository in the hub's cache: refs/REVISION names a commit, snapshots/COMMIT has its files."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _snapshot(model: HubModel) -> Path | None:
    """The folder of the model's revision in the hub's cache, which need not be complete."""
    commit = model.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (_cache_of(model.repo) / "refs" / model.revision).read_text().strip()
        except (OSError, ValueError):
            return None
    snapshot = _cache_of(model.repo) / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _record_path(model: HubModel) -> Path:
    return cache_folder() / "hub" / f"{hashlib.sha256(str(model).encode()).hexdigest()[:32]}.json"


def recorded_models() -> dict[HubModel, Path]:
    """What has been fetched and is still there, with its place."""
    records = [_read_record(path) for path in sorted((cache_folder() / "hub").glob("*.json"))]
    return {record[0]: record[1] for record in records if record is not None}


def _recorded(model: HubModel) -> Path | None:
    record = _read_record(_record_path(model))
    return record[1] if record is not None and record[0] == model else None


def _read_record(path: Path) -> tuple[HubModel, Path] | None:
    """A model and its place, if all of its files have the size that they had when they were fetched."""
    try:
        record = read_json(path)
        model, snapshot, sizes = HubModel.parse(record["model"]), Path(record["snapshot"]), record["files"]
        if model is not None and all((snapshot / name).stat().st_size == size for name, size in sizes.items()):
            return model, _place(snapshot, sizes)
    except (Error, OSError, KeyError, TypeError, AttributeError, ValueError):
        pass  # no record, or none that can be used: the hub is asked
    return None


def _record(model: HubModel, snapshot: Path, sizes: Mapping[str, int]) -> None:
    """Writes the record, and the branch's or tag's commit where all programs look for it; where that fails, the next
    load asks the hub again."""
    record = {"model": str(model), "snapshot": str(snapshot), "files": sizes}
    with suppress(OSError):
        _write(_record_path(model), json.dumps(record, indent=1))
        if model.revision != snapshot.name:
            _write(_cache_of(model.repo) / "refs" / model.revision, snapshot.name)


def _write(target: Path, text: str) -> None:
    """All of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=target.parent, suffix=".new", delete=False) as file:
        file.write(text)
    os.replace(file.name, target)
