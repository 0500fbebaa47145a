"""jiffy's cache folder, whether anything may be fetched into it, and what goes wrong with folders."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import Error, FormatError

FULL = {errno.ENOSPC, errno.EDQUOT}
_OTHER_FOLDER = "set XDG_CACHE_HOME to another folder"


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/jiffy, or jiffy in the system's usual folder for caches. Raises FormatError without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification has relative ones ignored
        return Path(base, "jiffy")
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "jiffy"
    except RuntimeError:
        raise FormatError("cache folder", expected=f"a home folder, or {_OTHER_FOLDER}", found="neither") from None


def is_offline() -> bool:
    """Whether JIFFY_OFFLINE forbids every fetch."""
    return os.environ.get("JIFFY_OFFLINE", "0") not in ("", "0")


@contextmanager
def cache_errors() -> Iterator[None]:
    """An OSError of this block is about the cache folder: raises FormatError that says what to do."""
    try:
        yield
    except OSError as error:
        raise cache_error(error) from None


def cache_error(error: OSError) -> Error:
    """What to do about `error` in the cache folder."""
    return folder_error(error, cache_folder(), _OTHER_FOLDER)


def folder_error(error: OSError, folder: Path, instead: str) -> Error:
    """What to do about `error` in `folder`; `instead` is how to name another one."""
    wanted = "free disk space, or" if error.errno in FULL else "a cache folder that can be written; or"
    return FormatError(str(folder), expected=f"{wanted} {instead}", found=error.strerror or str(error))
