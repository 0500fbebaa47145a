"""What jiffy raises: every error names the place, what was expected there and what was found."""

from __future__ import annotations

from functools import partial

_MAX_CHARS = 400


class Error(Exception):
    """The base of all errors of jiffy; `str(error)` is "{where}: expected {expected}, found {found}".

    where: the file, tensor, field or argument. expected, found: plain text. All three are kept printable and short,
    since a hostile file may put a megabyte of control characters where a name should be.
    """

    def __init__(self, where: str, *, expected: str, found: str) -> None:
        self.where = printable(where)
        self.expected = printable(expected)
        self.found = printable(found)
        super().__init__(f"{self.where}: expected {self.expected}, found {self.found}")

    def __reduce__(self):
        # Exceptions are pickled by their positional arguments; ours are keywords.
        return partial(type(self), expected=self.expected, found=self.found), (self.where,)


class FormatError(Error, ValueError):
    """A file is missing, damaged, or disagrees with itself."""


class ParameterError(Error, ValueError):
    """An argument has the wrong type or lies outside of its range."""


class ContextOverflow(Error, ValueError):
    """A sequence needs more positions than the context holds."""


class Unsupported(Error):
    """A valid request or file needs something that jiffy doesn't do (yet)."""


class OutOfMemory(Error, MemoryError):
    """An allocation failed."""


class ForkError(Error):
    """An object with threads was used in a child process that did not create it."""


def printable(text: str, max_chars: int = _MAX_CHARS) -> str:
    """`text` with unprintable characters escaped and its middle left out where it is long."""
    if len(text) > max_chars:
        half = max_chars // 2
        text = f"{text[:half]}...{text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """A value from a file as text for `found`: strings quoted, collections by kind and length alone."""
    if isinstance(value, str):
        return f'"{printable(value, 80)}"'
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"  # Python refuses to print the largest
    if isinstance(value, (bool, int, float)):
        return str(value)
    kind = {dict: "an object", list: "a list"}.get(type(value), type(value).__name__)
    return f"{kind} of {len(value)}" if hasattr(value, "__len__") else kind
