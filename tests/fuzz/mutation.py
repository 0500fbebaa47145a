"""Changes to structured inputs that keep most of their structure."""

from __future__ import annotations

import copy
import json
import random

import atheris

_NUMBERS = [-1, 0, 1, 2, 7, 32, 255, 256, 2**31 - 1, 2**31, 2**32, 2**63, 2**64, 10**30, 0.0, 0.5, -1.5, 1e-300, 1e308]
_TEXTS = ["", " ", "\0", "\n", "a", "ab", "\u2581", "é", "😀", "\ud800", "..", "/", "<0x0A>", "<|eos|>", "x" * 100]
_VALUES = [None, True, False, *_NUMBERS, *_TEXTS, [], {}, [[]], {"": 0}]


def mutated_json(data: bytes, max_size: int, rng: random.Random) -> bytes:
    """A JSON text with one to three values changed, or now and then other bytes."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if value is None or rng.random() < 0.05:
        return atheris.Mutate(data, max_size)
    for _ in range(rng.randint(1, 3)):
        value = _changed(value, rng)
    new = json.dumps(value).encode()
    return new if len(new) <= max_size else data


def _changed(value: object, rng: random.Random) -> object:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        if rng.random() < 0.75:
            value[key] = _changed(value[key], rng)
        else:
            _rearrange(value, key, rng.choice(keys), rng)
        return value
    if isinstance(value, str) and rng.random() < 0.6:
        at, n = rng.randint(0, len(value)), rng.randint(0, 3)
        return value[:at] + rng.choice(_TEXTS) + value[at + n :]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-1, 1, value])
    return copy.deepcopy(rng.choice([*_VALUES, [value], {"a": value}]))


def _rearrange(value: dict | list, key: object, other: object, rng: random.Random) -> None:
    """Takes a member out, puts another one in, or lets two change places."""
    kind = rng.randrange(3)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[key], value[other] = value[other], value[key]
    elif isinstance(value, list):
        value.insert(key, copy.deepcopy(value[other]))
    else:
        value[rng.choice([*_TEXTS, f"{key}x"])] = copy.deepcopy(value[key])
