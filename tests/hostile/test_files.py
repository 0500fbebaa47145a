"""Every hostile file ends in an error of ours that names the place, without much memory."""

import tracemalloc

import pytest

from jiffy.checkpoint import open_checkpoint
from jiffy.errors import Error

from .case import gguf_file, hf_folder
from .files import CASES

_MAX_BYTES = 64_000_000  # a config.json of the permitted 10 MB takes a few times its size as Python objects


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hostile_file(case, tmp_path):
    path = case.make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(Error) as caught:
            open_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert case.message in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert peak < _MAX_BYTES


def test_the_files_that_cases_spoil_are_good(tmp_path):
    """Otherwise every case above could fail for a reason of its own."""
    open_checkpoint(hf_folder(tmp_path))
    open_checkpoint(hf_folder(tmp_path / "shards", shards=2))
    open_checkpoint(gguf_file(tmp_path))


def test_case_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
