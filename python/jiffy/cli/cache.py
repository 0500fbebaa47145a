"""`jiffy cache`: the packed files that loading leaves behind."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from .options import JsonOption, print_table


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete them all.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models whose packed weights are kept for the next load, the one used last first, or delete them."""
    from ..pack_cache import clear as run_clear
    from ..pack_cache import folder, listed

    if clear:
        freed = run_clear()
        print(json.dumps({"freed_bytes": freed}) if as_json else f"{freed / 1e6:,.1f} MB freed")
        return
    models = listed()
    if as_json:
        print(json.dumps([{**vars(one), "path": str(one.path)} for one in models]))
        return
    rows = [
        (
            one.source or f"{one.path.name} (damaged)",
            one.weights or "as in the file",
            one.head or "weights",
            f"{one.size / 1e6:,.0f} MB",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used)),
        )
        for one in models
    ]
    print_table("", ["model", "weights", "head", "size", "used"], rows)
    print(f"{sum(one.size for one in models) / 1e6:,.1f} MB in {folder()}")
