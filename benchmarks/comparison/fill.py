"""Tables in documents that a command writes anew."""

from __future__ import annotations

import re
from pathlib import Path


def markdown(columns: list[str], rows: list[tuple[str, ...]]) -> str:
    """A table, a line for each row."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def fill(path: Path, name: str, text: str) -> None:
    """Replaces what stands between the lines `<!-- NAME -->` and `<!-- end of NAME -->`. Raises ValueError without
    them."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = path.read_text()
    new, n = re.subn(f"{re.escape(begin)}\n.*?{re.escape(end)}", lambda _: f"{begin}\n{text}{end}", old, flags=re.S)
    if n != 1:
        raise ValueError(f"{path}: expected one {begin} ... {end}, found {n}")
    path.write_text(new)
