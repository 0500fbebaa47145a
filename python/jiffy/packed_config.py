"""A model's config as JSON and back, checked as strictly as the files that it comes from."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing

from . import rope
from .config import MAX_DIM, MAX_LAYERS, MAX_VOCAB, Config
from .errors import FormatError, shown
from .fields import Fields
from .files import parse_json
from .rope_config import MAX_CONTEXT

_SCALINGS = {
    cls.__name__: cls
    for cls in (
        rope.RopeScaling,
        rope.LinearScaling,
        rope.DynamicScaling,
        rope.Llama3Scaling,
        rope.YarnScaling,
        rope.DivisorScaling,
    )
}
_MOST = {
    "n_layers": MAX_LAYERS,
    "vocab_size": MAX_VOCAB,
    "context_length": MAX_CONTEXT,
    "bos_id": MAX_VOCAB,
    "eos_ids": MAX_VOCAB,
    "windows": MAX_CONTEXT,
}  # MAX_DIM for all other integers


def config_to_json(config: Config) -> bytes:
    values = dataclasses.asdict(config)
    values["rope_scaling"]["kind"] = type(config.rope_scaling).__name__
    return json.dumps(values).encode()


def config_from_json(raw: bytes, where: str) -> Config:
    """Raises FormatError that begins with `where` and the field."""
    fields = Fields(parse_json(raw, where), where)
    scaling = fields.inner("rope_scaling")
    kind = scaling.text("kind")
    if kind not in _SCALINGS:
        raise scaling.error("kind", f"one of {', '.join(_SCALINGS)}", kind)
    return _made(Config, fields, rope_scaling=_made(_SCALINGS[kind], scaling))


def _made(cls: type, fields: Fields, **known: object):
    kinds = typing.get_type_hints(cls, vars(rope) | {"RopeScaling": rope.RopeScaling})
    names = [field.name for field in dataclasses.fields(cls) if field.name not in known]
    return cls(**known, **{name: _value(fields, name, kinds[name]) for name in names})


def _value(fields: Fields, name: str, kind: object) -> object:
    """A field of a dataclass by its type: int, float, bool, str, a tuple of numbers, or an int or None."""
    most = _MOST.get(name, MAX_DIM if name != "original" else MAX_CONTEXT)
    if isinstance(kind, types.UnionType):
        return None if fields.get(name) is None else fields.integer(name, most, low=0)
    if typing.get_origin(kind) is tuple:
        return tuple(_items(fields, name, typing.get_args(kind)[0], most))
    if kind is bool:
        return fields.boolean(name, default=None)
    if kind is float:
        return fields.number(name, -math.inf, math.inf)
    return fields.integer(name, most) if kind is int else fields.text(name)


def _items(fields: Fields, name: str, kind: type, most: int) -> list:
    values = fields.get(name)
    if not isinstance(values, list):
        raise fields.error(name, "a list", values)
    for one in values:
        if type(one) is not kind or (kind is int and not 0 <= one <= most):
            raise FormatError(fields.place(name), expected=f"{kind.__name__}s up to {most}", found=shown(one))
    return values
