"""Typed, bounded reads from what a file says in keys and values."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import FormatError, Unsupported, shown


class Fields:
    """Typed and bounded reads from an object of a file; errors name the file and the key. A null counts as absent.

    prefix: of all keys, for metadata that is flat.
    """

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        self._values = values
        self._where = where
        self._prefix = prefix

    def below(self, prefix: str) -> Fields:
        """The fields whose keys begin so, under the rest of their keys."""
        return Fields(self._values, self._where, self._prefix + prefix)

    def place(self, key: str) -> str:
        return f"{self._where} {self._prefix}{key}"

    def error(self, key: str, expected: str, found: object) -> FormatError:
        return FormatError(self.place(key), expected=expected, found=shown(found))

    def get(self, key: str) -> object:
        return self._values.get(self._prefix + key)

    def integer(self, key: str, high: int, default: int | None = None, low: int = 1) -> int:
        """An integer from low to high; absent and without a default is an error."""
        value = self._present(key, default)
        if type(value) is not int or not low <= value <= high:  # bool is an int by inheritance
            raise self.error(key, f"an integer from {low} to {high}", value)
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number strictly between low and high."""
        value = self._present(key, default)
        if type(value) not in (int, float) or not low < value < high:
            raise self.error(key, f"a number between {low:g} and {high:g}", value)
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._present(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._present(key, default)
        if not isinstance(value, str):
            raise self.error(key, "a string", value)
        return value

    def ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """Token ids: absent is none, an integer one, a list many."""
        value = self.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        for one in values:
            if type(one) is not int or not 0 <= one < vocab_size:
                raise self.error(key, f"token ids below vocab_size {vocab_size}", one)
        return tuple(values)

    def only(self, key: str, allowed: tuple[object, ...], default: object = None) -> None:
        """Refuses, as Unsupported, what would compute something else than jiffy does."""
        value = self._present(key, default)
        if not any(value == one for one in allowed if type(value) is type(one)):
            expected = " or ".join(shown(one) for one in allowed)
            raise Unsupported(self.place(key), expected=expected, found=shown(value))

    def inner(self, key: str) -> Fields:
        """The object at `key`; empty where there is none."""
        value = self._present(key, {})
        if not isinstance(value, dict):
            raise self.error(key, "an object", value)
        return Fields(value, self.place(key))

    def _present(self, key: str, default: object) -> object:
        value = self.get(key)
        return default if value is None else value
