"""Our reader of safetensors heads against the library's: whatever we open, it opens, with the same tensors."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from jiffy.errors import Error, Unsupported
from jiffy.safetensors import read_safetensors

from .case import hf_folder


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    return (hf_folder(tmp_path_factory.mktemp("good")) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt") / "model.safetensors"


def _shapes_of_library(path) -> dict[str, list[int]] | None:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except Exception:  # its error derives from Exception alone
        return None


def _agree(path, raw: bytes) -> bool:
    """Whether our reader opens the file; then the library must have the same tensors."""
    path.write_bytes(raw)
    try:
        tensors = read_safetensors(path)
    except Error:
        return False
    for entry in tensors.values():
        if entry.shape:
            entry.read_rows(0, entry.n_rows)
    assert _shapes_of_library(path) == {name: list(entry.shape) for name, entry in tensors.items()}
    return True


def _file(header: object, n_bytes: int) -> bytes:
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(n_bytes)


def test_good_file(good, spoilt):
    assert _agree(spoilt, good)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_truncated(good, spoilt, data):
    header_end = 8 + int.from_bytes(good[:8], "little")
    size = data.draw(st.integers(0, header_end) | st.integers(0, len(good) - 1))
    assert not _agree(spoilt, good[:size])


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_one_byte_changed(good, spoilt, data):
    raw = bytearray(good)
    at = data.draw(st.integers(0, 7 + int.from_bytes(good[:8], "little")))
    raw[at] = data.draw(st.sampled_from(b'0123456789"{}[],:-.eE \\') | st.integers(0, 255))
    _agree(spoilt, raw)


_INFO = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16"]),
        "shape": st.lists(st.integers(0, 3), max_size=3),
        "data_offsets": st.lists(st.integers(0, 12).map(lambda n: 2 * n), min_size=2, max_size=2),
    }
)


@settings(max_examples=1000, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), _INFO, max_size=3), st.integers(0, 24))
def test_random_headers(spoilt, header, n_bytes):
    _agree(spoilt, _file(header, n_bytes))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["F32", "F16"]), st.lists(st.integers(1, 3), max_size=3)), max_size=4))
def test_what_the_library_writes_opens(spoilt, tensors):
    """The converse, so that refusing everything would not pass."""
    header, end = {}, 0
    for index, (dtype, shape) in enumerate(tensors):
        n_bytes = {"F32": 4, "F16": 2}[dtype]
        for dim in shape:
            n_bytes *= dim
        header[str(index)] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + n_bytes]}
        end += n_bytes
    raw = _file(header, end)
    assert _agree(spoilt, raw)
    assert not _agree(spoilt, raw + b"\0")


def test_other_dtypes_are_unsupported(spoilt):
    spoilt.write_bytes(_file({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, 8))
    with pytest.raises(Unsupported, match="model.safetensors a dtype: expected one of F32, F16, BF16"):
        read_safetensors(spoilt)
