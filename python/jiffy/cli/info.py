"""`jiffy info`: what a model is."""

from __future__ import annotations

import json

from .options import CacheOption, JsonOption, ModelArgument, ThreadsOption, WeightsOption, print_table


def info(
    model: ModelArgument = None,
    as_json: JsonOption = False,
    weights: WeightsOption = None,
    threads: ThreadsOption = None,
    cache: CacheOption = True,
) -> None:
    """Load a model and say what it is and how it would run."""
    from ..llm import load

    facts = load(model, weights=weights, n_threads=threads, cache=cache).info()
    if as_json:
        print(json.dumps(facts))
        return
    facts["formats"] = ", ".join(f"{name}: {count / 1e6:.1f} M" for name, count in facts["formats"].items())
    for name in facts.keys() & {"packed_bytes", "kv_bytes"}:
        facts[name] = f"{facts[name] / 1e6:.1f} MB"
    print_table("", [], [(name.replace("_", " "), str(value)) for name, value in facts.items()])
