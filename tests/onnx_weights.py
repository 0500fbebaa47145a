"""The weights of an ONNX file whose matrices are int8 with one scale each (QDQ), as float32.

Source: onnx.proto3. ModelProto.graph is field 7, GraphProto.initializer 5; of TensorProto, dims are 1, data_type 2,
float_data 4, int32_data 5, name 8, raw_data 9.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_FLOAT, _INT8 = 1, 3  # TensorProto.DataType
_SCALE, _ZERO, _CODES = "_scale", "_zero_point", "_quantized"


def read_initializers(path: Path) -> dict[str, np.ndarray]:
    """Every tensor by name, in the order of the file: int8 codes and their scales become one float32 matrix."""
    model = memoryview(path.read_bytes())
    (graph,) = (value for number, value in _fields(model) if number == 7)
    raw = dict(_tensor(value) for number, value in _fields(graph) if number == 5)
    found = {}
    for name, array in raw.items():
        if name.endswith(_CODES):
            name = name.removesuffix(_CODES)
            zero = raw[name + _ZERO].reshape(-1)[0]
            found[name] = (array.astype(np.float32) - zero) * raw[name + _SCALE].reshape(-1)[0]
        elif not name.endswith((_SCALE, _ZERO)) and array.dtype == np.float32:
            found[name] = array
    return found


def _tensor(data: memoryview) -> tuple[str, np.ndarray]:
    dims, kind, name, values = [], 0, "", b""
    for number, value in _fields(data):
        if number == 1:
            dims.append(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = bytes(value).decode()
        elif number in (4, 9):
            values = bytes(value)
        elif number == 5:  # varints, the low byte of each an int8
            values = bytes(number & 255 for number in _varints(value))
    dtype = {_FLOAT: np.float32, _INT8: np.int8}.get(kind, np.uint8)
    shape = dims if kind in (_FLOAT, _INT8) else -1
    return name, np.frombuffer(values, dtype).reshape(shape)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = (8, at) if kind == 1 else (4, at) if kind == 5 else _varint(data, at)
            value = data[at : at + size]
            at += size
        yield key >> 3, value


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
