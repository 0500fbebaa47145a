"""`jiffy models`: which models there are."""

from __future__ import annotations

import dataclasses
import json

from .options import JsonOption, print_table


def models(as_json: JsonOption = False) -> None:
    """List the models that have a name, and those in the caches of this machine."""
    from ..hub.listing import list_models

    listed = list_models()
    if as_json:
        print(json.dumps([dataclasses.asdict(model) for model in listed]))
        return
    rows = [(m.name, f"{m.size / 1e6:,.0f} MB", "yes" if m.path else "no", m.source) for m in listed]
    print_table("", ["name", "size", "here", "from"], rows)
