"""Whole packages that tests read without installing them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from jiffy.hub import cache_folder
from jiffy.hub.packages import download


def fetch_archive(requirement: str, kind: str, sha256: str) -> Path:
    """The archive of a package, "name==version", in jiffy's cache; fetched by pip where it is missing."""
    kept = cache_folder() / "archives" / f"{requirement.replace('==', '-')}.{kind}"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            os.replace(download(requirement, kind, Path(scratch)), kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == sha256
    return kept
