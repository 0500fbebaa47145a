"""Hostile safetensors files and shard indexes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .case import Case, config, folder_instead, hf_folder, without

_Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
_INDEX = "model.safetensors.index.json"
_SHARD = "model-00001-of-00002.safetensors"
_DEEP = b'{"a":' + b"[" * 200_000


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """model.safetensors after a change of its bytes."""

    def make(below: Path) -> Path:
        folder = hf_folder(below)
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
        return folder

    return make


def _raw_header(header: bytes) -> Callable[[Path], Path]:
    return _bytes(lambda file: len(header).to_bytes(8, "little") + header + bytes(64))


def _header(change: Callable[[dict], object], extra: int = 0) -> Callable[[Path], Path]:
    """model.safetensors after a change of its header's object, and with `extra` bytes of data more."""

    def rewrite(file: bytes) -> bytes:
        end = 8 + int.from_bytes(file[:8], "little")
        header = json.loads(file[8:end])
        change(header)
        raw = json.dumps(header).encode()
        return len(raw).to_bytes(8, "little") + raw + file[end:] + bytes(extra)

    return _bytes(rewrite)


def _field(key: str, value: object) -> Callable[[Path], Path]:
    return _header(lambda header: header[_Q_PROJ].update({key: value}))


def _shift(first: int, second: int, extra: int = 0) -> Callable[[Path], Path]:
    """The last tensor's offsets moved by (first, second)."""

    def change(header: dict) -> None:
        offsets = header["model.norm.weight"]["data_offsets"]
        header["model.norm.weight"]["data_offsets"] = [offsets[0] + first, offsets[1] + second]

    return _header(change, extra)


def _rename(old: str, new: str) -> Callable[[Path], Path]:
    return _header(lambda header: header.update({new: header.pop(old)}))


def _add_bias(header: dict) -> None:
    end = header["model.norm.weight"]["data_offsets"][1]
    header["model.layers.0.self_attn.q_proj.bias"] = {
        "dtype": "F32",
        "shape": [32],
        "data_offsets": [end, end + 128],
    }


SAFETENSORS = [
    Case("empty", _bytes(lambda file: b""), "model.safetensors header length: expected 8 bytes at 0, found 0 bytes"),
    Case("header-0", _bytes(lambda file: bytes(8) + file[8:]), "model.safetensors header length"),
    Case("header-past-end", _bytes(lambda file: len(file).to_bytes(8, "little") + file[8:]), "header length"),
    Case("header-2^64-1", _bytes(lambda file: b"\xff" * 8 + file[8:]), "found 18446744073709551615"),
    Case("header-truncated", _bytes(lambda file: file[:100]), "model.safetensors header length"),
    Case("data-truncated", _bytes(lambda file: file[:-1]), "model.safetensors data: expected"),
    Case("data-too-long", _bytes(lambda file: file + b"\0"), "model.safetensors data: expected"),
    Case("header-not-utf8", _raw_header(b'{"\xff\xfe": 1}'), "model.safetensors header: expected UTF-8"),
    Case("header-deep", _raw_header(_DEEP), "nesting too deep"),
    Case("header-list", _raw_header(b"[1, 2]"), "header: expected a JSON object, found list"),
    Case("header-not-json", _raw_header(b"{'a': 1}"), "header: expected JSON"),
    Case("header-twice", _raw_header(b'{"a": 1, "a": 1}'), 'expected every key once, found "a" 2 times'),
    Case("header-nan", _raw_header(b'{"a": NaN}'), "expected finite numbers, found NaN"),
    Case("header-digits", _raw_header(b'{"a": ' + b"9" * 9000 + b"}"), "expected numbers within 64 bits"),
    Case("header-metadata", _raw_header(b'{"__metadata__": {"a": 1}}'), "__metadata__: expected an object of strings"),
    Case("tensor-no-object", _header(lambda header: header.update(extra=7)), "extra: expected an object, found 7"),
    Case("offsets-overlap", _shift(-4, -4), "model.norm.weight data_offsets: expected a begin at"),
    Case("offsets-gap", _shift(4, 4, extra=4), "model.norm.weight data_offsets: expected a begin at"),
    Case("offsets-reversed", _shift(200, -200), "model.norm.weight data_offsets: expected [begin, end]"),
    Case("offsets-negative", _field("data_offsets", [-4, 4]), "data_offsets: expected [begin, end], found [-4, 4]"),
    Case("offsets-past-end", _shift(1 << 40, 1 << 40), "model.norm.weight data_offsets"),
    Case("offsets-three", _field("data_offsets", [0, 4, 8]), "data_offsets: expected [begin, end], found [0, 4, 8]"),
    Case("offsets-text", _field("data_offsets", "0,4"), f"{_Q_PROJ} data_offsets"),
    Case("dtype-unknown", _field("dtype", "F99"), f'{_Q_PROJ} dtype: expected one of F32, F16, BF16, found "F99"'),
    Case("dtype-integer", _field("dtype", "I32"), f"{_Q_PROJ} dtype"),
    Case("dtype-number", _field("dtype", 7), f"{_Q_PROJ} dtype"),
    Case("dtype-against-size", _field("dtype", "BF16"), f"{_Q_PROJ} data_offsets: expected 2048 bytes for BF16"),
    Case("shape-overflow", _field("shape", [1 << 63, 1 << 63]), f"{_Q_PROJ} data_offsets"),
    Case("shape-wraps-to-size", _field("shape", [1 << 62, 1 << 2, 32]), f"{_Q_PROJ} data_offsets"),
    Case("shape-zero", _field("shape", [0, 32]), f"{_Q_PROJ} shape"),
    Case("shape-negative", _field("shape", [-32, -32]), f"{_Q_PROJ} shape"),
    Case("shape-float", _field("shape", [32.0, 32]), f"{_Q_PROJ} shape"),
    Case("shape-bool", _field("shape", [True, 1024]), f"{_Q_PROJ} shape"),
    Case("shape-long", _field("shape", [1] * 100_000), f"{_Q_PROJ} shape"),
    Case("shape-missing", _field("shape", None), f"{_Q_PROJ} shape"),
    Case("shape-unexpected", _field("shape", [16, 64]), "layers.1.self_attn.q_proj.weight: expected [32, 32], found"),
    Case("tensor-missing", _rename(_Q_PROJ, "other"), "layers.1.self_attn.q_proj.weight: expected [32, 32], found no"),
    Case("tensor-of-no-layer", _rename(_Q_PROJ, "model.layers.2.x.weight"), "q_proj.weight: expected [32, 32]"),
    Case("layers-too-many", lambda below: config(below, num_hidden_layers=1), "in a llama of 1 layers, found"),
    Case("layers-too-few", lambda below: config(below, num_hidden_layers=3), "layers.2.input_layernorm.weight"),
    Case("bias-not-asked", _header(_add_bias, extra=128), "q_proj.bias: expected no such tensor"),
    Case("name-twice", _rename("model.norm.weight", "embed_tokens.weight"), "expected one tensor of a name"),
    Case("name-surrogate", _rename(_Q_PROJ, "model.\ud800"), "model.safetensors header: expected Unicode text"),
    Case("head-missing", lambda below: config(below, tie_word_embeddings=False), "lm_head.weight: expected [259, 32]"),
    Case("no-weights", lambda below: without(below, "model.safetensors"), "expected model.safetensors or model.safe"),
    Case("weights-folder", lambda below: folder_instead(below, "model.safetensors"), "expected a readable file"),
]


def _index(change: Callable[[Path, dict], object]) -> Callable[[Path], Path]:
    """A folder of two shards after a change of its index."""

    def make(below: Path) -> Path:
        folder = hf_folder(below, shards=2)
        index = json.loads((folder / _INDEX).read_text())
        change(folder, index)
        (folder / _INDEX).write_text(json.dumps(index))
        return folder

    return make


def _listed(value: object) -> Callable[[Path], Path]:
    return _index(lambda folder, index: index["weight_map"].update({_Q_PROJ: value}))


def _moved_out(folder: Path, index: dict, link: bool) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / _SHARD).rename(outside)
    if link:
        (folder / _SHARD).symlink_to(outside)


def _linked_to_itself(folder: Path, index: dict) -> None:
    (folder / _SHARD).unlink()
    (folder / _SHARD).symlink_to(_SHARD)


def _absolute(folder: Path, index: dict) -> None:
    index["weight_map"][_Q_PROJ] = str(folder / _SHARD)


INDEXES = [
    Case("index-up", _listed("../model.safetensors"), f"{_INDEX} {_Q_PROJ}: expected a plain name like"),
    Case("index-parent", _listed(".."), f"{_INDEX} {_Q_PROJ}: expected a plain name"),
    Case("index-absolute", _index(_absolute), f"{_INDEX} {_Q_PROJ}: expected a plain name"),
    Case("index-zero-byte", _listed("a\0.safetensors"), f"{_INDEX} {_Q_PROJ}: expected a plain name"),
    Case("index-number", _listed(7), f"{_INDEX} {_Q_PROJ}: expected a plain name"),
    Case("index-long-name", _listed("a" * 5000 + ".safetensors"), "which doesn't exist"),
    Case("index-missing", _index(lambda *them: _moved_out(*them, link=False)), "which doesn't exist"),
    Case("index-symlink", _index(lambda *them: _moved_out(*them, link=True)), "a link to"),
    Case("index-symlink-loop", _index(_linked_to_itself), _INDEX),
    Case("index-other-shard", _listed("model-00002-of-00002.safetensors"), f"{_INDEX} {_Q_PROJ}: expected"),
    Case("index-no-map", _index(lambda folder, index: index.pop("weight_map")), f"{_INDEX} weight_map: expected"),
    Case("index-map-list", _index(lambda folder, index: index.update(weight_map=[])), f"{_INDEX} weight_map"),
    Case("index-unlisted", _index(lambda folder, index: index["weight_map"].pop(_Q_PROJ)), "found nothing"),
    Case("index-too-much", _index(lambda folder, index: index["weight_map"].update(x=_SHARD)), f"{_INDEX} x: expected"),
]
