"""Whatever the gguf library writes, our reader reads back: any metadata, any tensors."""

import math

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jiffy.gguf import read_gguf

_K = gguf.GGUFValueType
_INTEGERS = {kind: (kind.name[0] == "I", int(kind.name.strip("UINT"))) for kind in _K if "INT" in kind.name}
_RANGES = {
    kind: (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    for kind, (signed, bits) in _INTEGERS.items()
}
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_VALUES = {
    **{kind: st.integers(*limits) for kind, limits in _RANGES.items()},
    _K.FLOAT32: st.floats(width=32, allow_nan=False),
    _K.FLOAT64: st.floats(allow_nan=False),
    _K.BOOL: st.booleans(),
    _K.STRING: _TEXT,
}
_ONE = st.sampled_from(list(_VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), _VALUES[kind]))
_MANY = st.sampled_from([_K.INT32, _K.FLOAT32, _K.STRING, _K.BOOL]).flatmap(
    lambda kind: st.tuples(st.just(_K.ARRAY), st.lists(_VALUES[kind], min_size=1, max_size=5))
)
# "general.alignment" means something, and the writer has said "general.architecture" by itself.
_KEYS = st.text("abc._0é", min_size=1, max_size=12)
_TENSORS = st.dictionaries(
    st.text("abc._0é", min_size=1, max_size=12),
    st.tuples(st.sampled_from([np.float32, np.float16]), st.lists(st.integers(1, 5), min_size=1, max_size=4)),
    max_size=5,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("round") / "model.gguf"


@settings(max_examples=200, deadline=None)
@given(pairs=st.dictionaries(_KEYS, _ONE | _MANY, max_size=6), tensors=_TENSORS)
def test_what_the_library_writes(path, pairs, tensors):
    writer = gguf.GGUFWriter(str(path), "llama")
    for key, (kind, value) in pairs.items():
        writer.add_key_value(key, value, kind)
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=shape).astype(dtype) for name, (dtype, shape) in tensors.items()}
    for name, values in data.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    assert file.metadata.keys() == {"general.architecture", *pairs}
    for key, (_, value) in pairs.items():
        assert _same(file.metadata[key], value), (key, file.metadata[key], value)
    assert file.tensors.keys() == data.keys()
    for name, values in data.items():
        entry = file.tensors[name]
        assert entry.shape == values.shape
        assert entry.read_rows(0, entry.n_rows).tobytes() == values.tobytes()


def _same(found: object, written: object) -> bool:
    found = found.tolist() if isinstance(found, np.ndarray) else found
    if isinstance(written, float):
        return math.copysign(1, found) == math.copysign(1, written) and found == written
    return type(found) is type(written) and found == written
