"""A model's config as JSON and back, checked as strictly as the files that it comes from."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing

from . import rope
from .config import MAX_DIM, MAX_LAYERS, MAX_VOCAB, Config
from .encoder_config import EncoderConfig
from .errors import FormatError, ParameterError, shown
from .fields import Fields
from .files import parse_json
from .rope_config import MAX_CONTEXT
from .sampling import SamplingParams
from .seq2seq_config import Generation, Seq2SeqConfig

AnyConfig = Config | EncoderConfig | Seq2SeqConfig

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
_CONFIGS = {cls.__name__: cls for cls in typing.get_args(AnyConfig)}
_MOST = {
    "n_layers": MAX_LAYERS,
    "n_inner": MAX_LAYERS,
    "weights_of": MAX_LAYERS,
    **dict.fromkeys(("vocab_size", "bos_id", "eos_ids", "decoder_start_id", "zero_id", "n_types"), MAX_VOCAB),
    **dict.fromkeys(("context_length", "windows", "n_positions", "position_offset", "original"), MAX_CONTEXT),
    **dict.fromkeys(("max_tokens", "max_length"), 1 << 30),
}  # MAX_DIM for all other integers
_MAY_BE_0 = {"n_types", "n_positions", "position_offset", "n_buckets", "max_distance", "decoder_start_id"}


def config_to_json(config: AnyConfig) -> bytes:
    values = dataclasses.asdict(config)
    if isinstance(config, Config):
        values["rope_scaling"]["kind"] = type(config.rope_scaling).__name__
    values["kind"] = type(config).__name__
    return json.dumps(values, default=sorted).encode()  # of sets


def config_from_json(raw: bytes, where: str) -> AnyConfig:
    """Raises FormatError that begins with `where` and the field."""
    fields = Fields(parse_json(raw, where), where)
    return _made(_one_of(fields, _CONFIGS), fields)


def _one_of(fields: Fields, classes: dict[str, type]) -> type:
    kind = fields.text("kind")
    if kind not in classes:
        raise fields.error("kind", f"one of {', '.join(classes)}", kind)
    return classes[kind]


def _made(cls: type, fields: Fields):
    kinds = typing.get_type_hints(cls)
    return cls(**{field.name: _value(fields, field.name, kinds[field.name]) for field in dataclasses.fields(cls)})


def _value(fields: Fields, name: str, kind: object) -> object:
    """A field of a dataclass by its type: int, float, bool, str, a tuple or a set of these, another dataclass, or a
    number or None."""
    most = _MOST.get(name, MAX_DIM)
    if isinstance(kind, types.UnionType):
        (kind,) = (one for one in typing.get_args(kind) if one is not type(None))
        return None if fields.get(name) is None else _number(fields, name, kind, most, 0)
    if kind is rope.RopeScaling:
        inner = fields.inner(name)
        return _made(_one_of(inner, _SCALINGS), inner)
    if kind is Generation:
        return _generation(fields.inner(name))
    if dataclasses.is_dataclass(kind):
        return _made(kind, fields.inner(name))
    if typing.get_origin(kind) in (tuple, frozenset):
        return typing.get_origin(kind)(_items(fields, name, typing.get_args(kind)[0], most))
    if kind is bool:
        return fields.boolean(name, default=None)
    return fields.text(name) if kind is str else _number(fields, name, kind, most, int(name not in _MAY_BE_0))


def _number(fields: Fields, name: str, kind: type, most: int, low: int) -> int | float:
    return fields.integer(name, most, low=low) if kind is int else fields.number(name, -math.inf, math.inf)


def _items(fields: Fields, name: str, kind: type, most: int) -> list:
    values = fields.get(name)
    if not isinstance(values, list):
        raise fields.error(name, "a list", values)
    for one in values:
        if type(one) is not kind or (kind is int and not 0 <= one <= most):
            expected = f"{kind.__name__}s" + ("" if kind is str else f" up to {most}")
            raise FormatError(fields.place(name), expected=expected, found=shown(one))
    return values


def _generation(fields: Fields) -> Generation:
    """Its fields are as `SamplingParams` has them."""
    values = fields.get("fields")
    if not isinstance(values, dict):
        raise fields.error("fields", "an object", values)
    try:
        params = SamplingParams.of(None, values)
    except ParameterError as error:
        raise FormatError(fields.place(error.where), expected=error.expected, found=error.found) from None
    most = _value(fields, "max_length", int | None)
    return Generation({name: getattr(params, name) for name in values}, most)
