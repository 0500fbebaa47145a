"""Stop strings that overlap each other and the answer; the fuzz target of the same name has the expected text."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import fuzz_stop_strings

_ALPHABET = "ab€"


@settings(max_examples=500, deadline=None)
@given(
    stop=st.lists(st.text(_ALPHABET, min_size=1, max_size=5), max_size=4),
    answer=st.lists(st.sampled_from([*(char.encode() for char in _ALPHABET), b"\xe2\x82", b"\xff"]), max_size=20),
)
def test_the_first_complete_stop_string_ends_the_answer(tmp_path_factory, stop, answer):
    texts = [text.encode() for text in stop]
    fuzz_stop_strings.one(bytes([len(stop)]) + b"\0".join([*texts, b"".join(answer)]), tmp_path_factory.getbasetemp())
