"""The head of a packed file (csrc/program/packed_head.h) as plain data and back, for tests that spoil it."""

from __future__ import annotations

import struct
from pathlib import Path

from jiffy import _core

_ATTRIBUTES = [
    ("eps", "f"),
    ("scale", "f"),
    *[(n, "q") for n in ("layer", "n_heads", "n_kv_heads", "head_dim", "window")],
]
_INSTRUCTION = [
    *[("op", "s"), ("inputs", "i*"), ("outputs", "i*"), ("parameters", "i*")],
    *[*_ATTRIBUTES, *((name, "B") for name in ("causal", "tanh", "cross", "indices", "function", "pooling"))],
]
_LAYOUT = {
    "parameters": [("name", "s"), ("kind", "B")],
    "programs": [
        ("name", "s"),
        ("values", [("space", "B"), ("width", "q"), ("bits", "i"), ("group", "q"), ("powers", "B")]),
        ("instructions", _INSTRUCTION),
        ("marks", [("name", "s"), ("value", "i")]),
        ("result", "i"),
    ],
    "context_length": "q",
    "tensors": [("name", "s"), ("bytes", "q"), ("checksums", "Q*")],
    "n_attachments": "q",
}
_PLACE = [("rows", "q"), ("cols", "q"), ("tensor", "q"), ("offset", "q")]
_FORMAT = [("slab_stride", "q"), ("bits", "i"), ("group", "i"), ("offset_kind", "B"), ("scale_type", "B")]
_BY_KIND = {
    0: [*_PLACE, *_FORMAT],
    1: _PLACE,
    2: [("factor", "d"), ("sine", "B"), ("one_context", "B"), ("frequencies", "d*")],
}


def read_head(path: Path) -> dict:
    body, at = _body(path.read_bytes()), 0

    def take(kind: str | list) -> object:
        nonlocal at
        if isinstance(kind, list):
            return [item(kind) for _ in range(take("I"))]
        if kind == "s" or kind.endswith("*"):
            n = take("I")
            if kind == "s":
                at += n
                return body[at - n : at].decode()
            return [take(kind[0]) for _ in range(n)]
        (value,) = struct.unpack_from(f"<{kind}", body, at)
        at += struct.calcsize(f"<{kind}")
        return value

    def item(fields: list) -> dict:
        made = {name: take(kind) for name, kind in fields}
        return made | {name: take(kind) for name, kind in _BY_KIND[made["kind"]]} if "kind" in made else made

    head = {name: take(layout) for name, layout in _LAYOUT.items()}
    assert at == len(body)
    return head


def write_head(path: Path, head: dict) -> None:
    """Puts another head, and its checksum, into a packed file."""
    write_body(path, head_bytes(head))


def head_bytes(head: dict) -> bytes:
    def put(kind: str | list, value: object) -> bytes:
        if isinstance(kind, list):
            return struct.pack("<I", len(value)) + b"".join(item(kind, one) for one in value)
        if kind == "s":
            raw = value.encode()
            return struct.pack("<I", len(raw)) + raw
        if kind.endswith("*"):
            return struct.pack("<I", len(value)) + b"".join(put(kind[0], one) for one in value)
        return struct.pack(f"<{kind}", value)

    def item(fields: list, value: dict) -> bytes:
        more = _BY_KIND.get(value["kind"], []) if "kind" in value else []
        return b"".join(put(kind, value[name]) for name, kind in [*fields, *more])

    return b"".join(put(layout, head[name]) for name, layout in _LAYOUT.items())


def body_of(path: Path) -> bytes:
    return _body(path.read_bytes())


def write_body(path: Path, body: bytes) -> None:
    raw = path.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    room = -(-(32 + len(_body(raw))) // 4096) * 4096
    numbers = struct.pack("<QQQ", _core.LAYOUT_VERSION, len(body), _core.checksum(bytes(body)))
    program = b"jiffypak" + numbers + body
    padded = program + bytes(max(room, -(-len(program) // 4096) * 4096) - len(program))
    path.write_bytes(raw[:begin] + padded + raw[begin + room :])


def _body(raw: bytes) -> bytes:
    begin = 8 + int.from_bytes(raw[:8], "little")
    n = int.from_bytes(raw[begin + 16 : begin + 24], "little")
    return raw[begin + 32 : begin + 32 + n]
