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
