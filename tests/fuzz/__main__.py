"""`python -m fuzz NAME FOLDER [libFuzzer's options]`: runs the target fuzz_NAME.py with its seeds, in FOLDER.

A target has `seeds() -> list[bytes]`, `one(data, folder)` and, where changing bytes alone would get nowhere,
`mutated(data, max_size, rng) -> bytes`. Whatever `one` raises but a jiffy.Error is a finding; so is an input that takes
25 seconds (2.5 is what the slowest may take on an idle machine), or memory beyond the limit. The input is written to
FOLDER/crash-... and printed in base64.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import atheris

_MAX_BYTES = 1 << 16
_LIMITS = ["-timeout=25", "-rss_limit_mb=1000", f"-max_len={_MAX_BYTES}", "-len_control=0", "-verbosity=0"]


def main() -> None:
    name, folder, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    corpus = folder / "corpus"
    corpus.mkdir()
    with atheris.instrument_imports(include=["jiffy", "jinja2"]):
        from jiffy.errors import Error

        target = importlib.import_module(f"fuzz.fuzz_{name}")
        for index, seed in enumerate(target.seeds()):
            target.one(seed, folder)  # a seed is good; and what jiffy imports late is imported now
            (corpus / f"seed-{index:03}").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            target.one(data, folder)
        except Error as error:
            assert error.where and error.expected and error.found, repr(error)
            assert len(str(error)) < 2000, len(str(error))

    mutated = getattr(target, "mutated", None)
    arguments = [sys.argv[0], str(corpus), f"-artifact_prefix={folder}/", *_LIMITS, *options]
    if mutated is None:
        atheris.Setup(arguments, one)
    else:
        atheris.Setup(arguments, one, custom_mutator=lambda data, size, seed: mutated(data, size, random.Random(seed)))
    atheris.Fuzz()


main()
