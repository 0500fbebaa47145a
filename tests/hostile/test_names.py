"""Names of weight formats and of file types: those that are listed work, any other is an error that lists them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jiffy import _core
from jiffy.errors import ParameterError, Unsupported
from jiffy.foreign_types import natural_format
from jiffy.tensor_entry import DTYPES

_NAMES = _core.format_names()
_NEAR = st.sampled_from([*_NAMES, *DTYPES]).flatmap(
    lambda name: st.sampled_from([name.upper(), f"{name} ", name[:-1], f"{name}a", f"{name}2", f"{name}\0"])
)
_TEXTS = _NEAR | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(_TEXTS)
def test_format_names(name):
    if name in _NAMES:
        assert _core.Weight("w", 16, 32, name).format == name
        return
    with pytest.raises(ParameterError) as caught:
        _core.Weight("w", 16, 32, name)
    assert caught.value.where == "w" and ", ".join(_NAMES) in caught.value.expected


def test_type_names():
    for name in DTYPES:
        assert natural_format(name) in _NAMES


@given(_TEXTS)
def test_other_type_names(name):
    assume(name not in DTYPES)
    with pytest.raises(Unsupported) as caught:
        natural_format(name)
    assert caught.value.where == "type"
