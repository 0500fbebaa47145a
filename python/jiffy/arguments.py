"""Checks that several public functions make of their arguments; each raises ParameterError naming the argument."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import ParameterError, shown


def one_of(name: str, value: object, values: Iterable[str | None]) -> None:
    values = list(values)
    if value not in values:
        raise ParameterError(name, expected="one of " + ", ".join(v or "None" for v in values), found=shown(value))


def integer(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ParameterError(name, expected=f"an integer from {least} to {most}", found=shown(value))


def truncates(overflow: str) -> bool:
    """What the argument `overflow` says of a text that is too long: whether its end is left out."""
    one_of("overflow", overflow, ["error", "truncate"])
    return overflow == "truncate"


def raises(errors: str) -> bool:
    """What the argument `errors` says of a text's error: whether it is raised, or stands in the place of a result."""
    one_of("errors", errors, ["raise", "return"])
    return errors == "raise"
