"""The cache of packed files: what a load has packed once, the next one reads.

A model's file is named after its path and the formats asked for, so that a stale one is replaced. What it was packed
from stands inside: the key below. A file that doesn't fit its key, or is damaged, is made anew, with a line on standard
error; one that can't be written costs a line, never the load.

The key of the source is a digest of its files' names, sizes, times of change, and contents: all of the small ones; of
large ones the head and 64 pieces of 4 kB spread over the rest, since reading 2.5 GB would cost a second each time. That
misses a change in place only if it keeps the size, sets the old time again and stays between the pieces. The packed
file itself is checked in full, by checksums, whenever it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import __version__, _core
from .errors import Error, FormatError, Unsupported
from .files import open_file
from .hub import cache_folder
from .loading import Loading
from .notice import notify
from .packed import load_kept, packed_source, write_packed
from .prepared import Prepared

LIMIT_BYTES = 16 << 30  # of all files together; the ones used longest ago go first
LEAST_BYTES = 64 << 20  # of packed weights: smaller models load in no time
_SUFFIX = ".jiffy"
_ABANDONED_AFTER_S = 3600  # a writer that has been at it for longer is no more
_WHOLE_BYTES = 8 << 20  # of files that are read in full
_PIECES, _PIECE_BYTES, _HEAD_BYTES = 64, 4096, 1 << 16
_SOURCE_SUFFIXES = (".json", ".jinja", ".safetensors", ".spm", ".bin")
_TRACING = (
    *("models", "checkpoint.py", "config.py", "foreign_types.py", "graph.py", "rope.py", "weights.py"),
    *("encoder_checkpoint.py", "encoder_config.py", "encoder_names.py", "sentence_config.py"),
    *("seq2seq_checkpoint.py", "seq2seq_config.py", "marian_bin.py"),
)


def folder() -> Path:
    """Where packed files lie. Raises FormatError without a home."""
    return cache_folder() / "packed"


@dataclass(frozen=True)
class Slot:
    """The place of a model in the cache. key: what the file there must have been made from."""

    path: Path
    source: Path
    key: dict[str, object]

    @classmethod
    def of(cls, source: Path, loading: Loading) -> Slot | None:
        """None where there is no cache, or no source that could be read; loading it will say why."""
        real = os.path.realpath(source)
        chosen = [real, loading.weights, loading.head]
        name = hashlib.blake2b(json.dumps(chosen).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        try:
            path = folder() / f"{Path(real).stem[:60]}-{name}{_SUFFIX}"
            files = _digest_of_source(Path(source))
        except (OSError, Error):
            return None
        formats = {"weights": loading.weights, "head": loading.head}
        key = {"source": real, **formats, "files": files, "code": _digest_of_code()}
        return cls(path, source, key)

    def load(self, loading: Loading) -> Prepared | None:
        """The model, or None if there is no good file for it. Raises as `jiffy.load` does for arguments."""
        if not os.path.exists(self.path):
            return None
        try:
            if packed_source(self.path) != self.key:
                self._announce("its files, or jiffy, have changed since")
                return None
            model = load_kept(self.path, self.source, loading)
            os.utime(self.path)
        except (FormatError, Unsupported, OSError) as error:
            self._announce(str(error))
            return None
        return model

    def store(self, model: Prepared) -> None:
        """Writes a model that has just been packed, if that is worth it, and makes room."""
        if model.taken_over or not LEAST_BYTES <= model.packed_bytes <= LIMIT_BYTES:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_packed(self.path, model, self.key)
            trim(keep=self.path)
        except (OSError, FormatError) as error:
            notify(f"{self.source} will be packed again the next time: {error}")

    def _announce(self, why: str) -> None:
        notify(f"packing {self.source} anew: {why}")


@dataclass(frozen=True)
class Cached:
    """A file of the cache. source, weights, head: what it holds, None for a damaged one. used: when, in seconds."""

    path: Path
    size: int
    used: float
    source: str | None
    weights: str | None
    head: str | None


def listed() -> list[Cached]:
    """All models in the cache, the one used last first. Raises FormatError without a home."""
    found = []
    for path, status in _files():
        if path.suffix == _SUFFIX:
            try:
                source = packed_source(path)
            except Error:
                source = {}
            told = (source.get(name) for name in ("source", "weights", "head"))
            texts = (one if isinstance(one, str) else None for one in told)
            found.append(Cached(path, status.st_size, status.st_mtime, *texts))
    return sorted(found, key=lambda one: -one.used)


def clear() -> int:
    """Deletes all of it; returns how many bytes that were."""
    return sum(_delete(path, status) for path, status in list(_files()))


def trim(keep: Path | None = None, limit: int | None = None) -> None:
    """Deletes the files used longest ago until `limit` bytes are left, and what dead writers left; never `keep`."""
    files = sorted(_files(), key=lambda file: -file[1].st_mtime)
    room = LIMIT_BYTES if limit is None else limit
    room -= sum(status.st_size for path, status in files if path == keep)
    for path, status in files:
        if path == keep:
            continue
        if path.suffix != _SUFFIX:
            if time.time() - status.st_mtime > _ABANDONED_AFTER_S:
                _delete(path, status)
            continue
        room -= status.st_size
        if room < 0:
            _delete(path, status)
            room += status.st_size


def _files() -> Iterator[tuple[Path, os.stat_result]]:
    """All files that are ours, whole ones and those under way."""
    try:
        with os.scandir(folder()) as entries:
            for entry in entries:
                if _SUFFIX in entry.name and entry.is_file(follow_symlinks=False):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)
    except OSError:
        return  # no folder yet, or one of the files has just gone


def _delete(path: Path, status: os.stat_result) -> int:
    try:
        path.unlink()
    except OSError:
        return 0
    return status.st_size


def _digest_of_source(source: Path) -> str:
    """Raises OSError, and FormatError for what is no regular file."""
    digest = hashlib.blake2b(digest_size=16)
    for path in _files_of_source(source):
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            name = f"{path.parent.name}/{path.name}".encode("utf-8", "surrogateescape")
            digest.update(b"%s/%d/%d/" % (name, status.st_size, status.st_mtime_ns))
            for begin, end in _read_ranges(status.st_size):
                digest.update(os.pread(file.fileno(), end - begin, begin))
    return digest.hexdigest()


def _files_of_source(source: Path) -> list[Path]:
    """A folder's, with those of sentence-transformers' modules below it; a file, with the vocabularies and shortlists
    beside it if it is Marian's."""
    if source.is_dir():
        own = [path for path in source.iterdir() if path.suffix in _SOURCE_SUFFIXES]
        return sorted([*own, *source.glob("*/config.json")])
    beside = ("*vocab*.spm", "lex*.bin") if source.suffix == ".bin" else ()
    return [source, *(path for pattern in beside for path in sorted(source.parent.glob(pattern)))]


def _read_ranges(size: int) -> Iterator[tuple[int, int]]:
    if size <= _WHOLE_BYTES:
        yield 0, size
        return
    yield 0, _HEAD_BYTES
    for piece in range(1, _PIECES + 1):
        begin = (size - _PIECE_BYTES) * piece // _PIECES
        yield begin, begin + _PIECE_BYTES


def _digest_of_code() -> str:
    """The version of jiffy, of the layout, and what traces and reads models."""
    here = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for name in _TRACING:
        for path in sorted((here / name).glob("*.py")) if (here / name).is_dir() else [here / name]:
            digest.update(path.read_bytes())
    return f"{__version__}, layout {_core.LAYOUT_VERSION}, {digest.hexdigest()}"
