"""How an encoder ends: its last layer, of those rows alone that somebody wants.

Behind the last attention rows no longer meet, so a head that reads the first row of a sequence needs no other: the
last layer's matrices then do a quarter of the work that another layer's do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..graph import Node, Trace

Keep = Callable[["Node"], "Node"]  # rows of tokens -> those that are wanted
Ending = Callable[["Trace", Keep], "Node"]  # traces the last layer


def all_rows(x: Node) -> Node:
    return x


def pooled(t: Trace, ending: Ending, pooling: str) -> Node:
    """One row for each sequence."""
    if pooling in ("first", "last"):
        return ending(t, lambda x: t.pool(x, pooling))
    return t.pool(ending(t, all_rows), pooling)


def chosen(t: Trace, ending: Ending) -> Node:
    """The rows that are asked for."""
    return ending(t, t.select)
