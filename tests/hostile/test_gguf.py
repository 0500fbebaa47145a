"""No damage to a GGUF file gets past the reader as anything but an error of ours."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jiffy.checkpoint import open_checkpoint
from jiffy.errors import Error

from .case import gguf_file

_HEADER_BYTES = 6000  # of a file of 26 kB; damage to weights can't be seen


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    return gguf_file(tmp_path_factory.mktemp("good")).read_bytes()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt") / "model.gguf"


def _open(path, raw: bytes) -> bool:
    """Whether the file opens, and all of its rows can be read; an exception that isn't ours fails the test."""
    path.write_bytes(raw)
    try:
        for entry in open_checkpoint(path).tensors.values():
            assert entry.read_rows(0, entry.n_rows).shape == (entry.n_rows, entry.row_bytes)
    except Error:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_truncated(good, spoilt, data):
    size = data.draw(st.integers(0, _HEADER_BYTES) | st.integers(0, len(good) - 1))
    # The last tensor ends with the file but for padding.
    assert not _open(spoilt, good[:size]) or size > len(good) - 32


@settings(max_examples=1500, deadline=None)
@given(at=st.integers(0, _HEADER_BYTES), flip=st.integers(1, 255))
def test_one_byte_flipped(good, spoilt, at, flip):
    raw = bytearray(good)
    raw[at] ^= flip
    _open(spoilt, raw)


@settings(max_examples=500, deadline=None)
@given(at=st.integers(0, _HEADER_BYTES), piece=st.binary(max_size=16), cut=st.integers(0, 16))
def test_a_piece_replaced(good, spoilt, at, piece, cut):
    _open(spoilt, good[:at] + piece + good[at + cut :])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_after_the_magic(spoilt, raw):
    assert not _open(spoilt, b"GGUF\x03\0\0\0" + raw)
