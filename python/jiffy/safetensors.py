"""Reads the heads of safetensors files: where the tensors lie, never the tensors themselves.

Source: the safetensors format (huggingface/safetensors, README, "Format"):

    u64 n (little endian), n bytes of JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}}, data

Offsets count from the start of the data, which the tensors cover without gap or overlap. The checks are those of the
safetensors library, which the tests hold against ours; its own errors don't name the tensor, and it maps the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import FormatError, Unsupported, shown
from .files import file_size, open_file, parse_json, read_into, read_json
from .tensor_entry import TensorEntry, tensor_bytes

if TYPE_CHECKING:
    import numpy as np

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 1 << 25  # a tensor takes about 100 bytes; the format itself stops at 100 MB
_MAX_DIMS = 8
_DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_INTEGER_DTYPES = {"I64": "i64", "I32": "i32"}
# 0, 1, 2, ... or 0, which old files have for tensors; and the rows of static vectors by token id.
_INTEGERS = re.compile(r"(.*\.)?(position_ids|token_type_ids)|mapping")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


def read_safetensors_folder(folder: Path) -> dict[str, TensorEntry]:
    """The tensors of model.safetensors, or of the shards that model.safetensors.index.json names, by name.

    Raises FormatError for damaged or missing files, an index that disagrees with its shards, and a shard outside of the
    folder; Unsupported for a tensor that is not F32, F16 or BF16, but for those that hold integers.
    """
    if os.path.exists(folder / WEIGHTS_FILE):
        return read_safetensors(folder / WEIGHTS_FILE)
    if os.path.exists(folder / INDEX_FILE):
        return _read_shards(folder)
    raise FormatError(str(folder), expected=f"{WEIGHTS_FILE} or {INDEX_FILE}", found="neither")


def read_safetensors(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one file by name, in the order of their offsets. Raises FormatError, Unsupported."""
    infos, data, size = _read_header(path)
    infos.pop("__metadata__", None)
    entries = [_entry(path, name, info, data) for name, info in infos.items()]
    return _covering(path, entries, data, size)


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself in texts. Raises FormatError."""
    return _read_header(path)[0].get("__metadata__", {})


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes float32 arrays. Raises FormatError naming the file if it can't be written."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    head = json.dumps(header).encode()
    try:
        with open(path, "wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for array in arrays.values():
                file.write(array.astype("<f4").tobytes())
    except OSError as error:
        raise FormatError(
            str(path), expected="a file that can be written", found=error.strerror or str(error)
        ) from None


def _read_header(path: Path) -> tuple[dict[str, object], int, int]:
    """The objects of the header by name, where the file's data begins, and its size."""
    with open_file(path) as file:
        size = file_size(file)
        prefix = bytearray(8)
        read_into(file, 0, memoryview(prefix), f"{path.name} header length")
        n_bytes = int.from_bytes(prefix, "little")
        limit = min(size - 8, _MAX_HEADER_BYTES)
        if not 0 < n_bytes <= limit:
            raise FormatError(f"{path.name} header length", expected=f"1 to {limit} bytes", found=str(n_bytes))
        raw = bytearray(n_bytes)
        read_into(file, 8, memoryview(raw), f"{path.name} header")
    infos = parse_json(raw, f"{path.name} header")
    _check_metadata(path, infos.get("__metadata__", {}))
    return infos, 8 + n_bytes, size


def _check_metadata(path: Path, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{path.name} __metadata__", expected="an object of strings", found=shown(metadata))


def _entry(path: Path, name: str, info: object, data: int) -> TensorEntry:
    """One tensor of the header; `data` is where the file's data begins."""
    where = f"{path.name} {name}"
    if not isinstance(info, dict):
        raise FormatError(where, expected="an object", found=shown(info))
    dtype, shape, offsets = info.get("dtype"), info.get("shape"), info.get("data_offsets")
    dtypes = _DTYPES | (_INTEGER_DTYPES if _INTEGERS.fullmatch(name) else {})
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise Unsupported(f"{where} dtype", expected=f"one of {', '.join(_DTYPES)}", found=shown(dtype))
    if not _are_integers(shape, low=1) or len(shape) > _MAX_DIMS:
        raise FormatError(f"{where} shape", expected=f"at most {_MAX_DIMS} positive integers", found=_listed(shape))
    if not _are_integers(offsets, low=0) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{where} data_offsets", expected="[begin, end]", found=_listed(offsets))
    begin, end = offsets
    n_bytes = tensor_bytes(dtypes[dtype], tuple(shape))
    if end - begin != n_bytes:
        raise FormatError(
            f"{where} data_offsets", expected=f"{n_bytes} bytes for {dtype} {shape}", found=f"{end - begin} bytes"
        )
    return TensorEntry(name, dtypes[dtype], tuple(shape), path, data + begin, n_bytes)


def _are_integers(values: object, low: int) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= low for value in values)


def _listed(values: object) -> str:
    return str(values) if isinstance(values, list) and len(values) <= _MAX_DIMS else shown(values)


def _covering(path: Path, entries: list[TensorEntry], data: int, size: int) -> dict[str, TensorEntry]:
    """The entries by name, if they cover the data of the file from end to end."""
    end = data
    entries.sort(key=lambda entry: entry.offset)
    for entry in entries:
        if entry.offset != end:
            raise FormatError(
                f"{path.name} {entry.name} data_offsets",
                expected=f"a begin at {end - data}, where the tensor before it ends",
                found=str(entry.offset - data),
            )
        end += entry.n_bytes
    if end != size:
        raise FormatError(f"{path.name} data", expected=f"{end - data} bytes, as in the header", found=str(size - data))
    return {entry.name: entry for entry in entries}


def _read_shards(folder: Path) -> dict[str, TensorEntry]:
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(f"{INDEX_FILE} weight_map", expected="an object", found=shown(weight_map))
    tensors: dict[str, TensorEntry] = {}
    for path in _shard_paths(folder, weight_map):
        for name, entry in read_safetensors(path).items():
            listed = weight_map.get(name)
            if listed != path.name:
                raise FormatError(f"{INDEX_FILE} {name}", expected=f'"{path.name}", which has it', found=shown(listed))
            tensors[name] = entry
    for name, listed in weight_map.items():
        if name not in tensors:
            raise FormatError(f"{INDEX_FILE} {name}", expected="a shard that has it", found=shown(listed))
    return tensors


def _shard_paths(folder: Path, weight_map: Mapping[str, object]) -> list[Path]:
    """Every shard once. A shard may not lie outside of the folder, even by a symbolic link, except where the folder is
    a snapshot in Hugging Face's cache (.../snapshots/<revision>), whose files are links into .../blobs."""
    root = Path(os.path.realpath(folder))
    homes = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
    paths: dict[str, Path] = {}
    for name, listed in weight_map.items():
        if isinstance(listed, str) and listed in paths:
            continue
        where = f"{INDEX_FILE} {name}"
        if not isinstance(listed, str) or not _SHARD_NAME.fullmatch(listed):
            raise FormatError(where, expected="a plain name like model-00001-of-00002.safetensors", found=shown(listed))
        real = Path(os.path.realpath(root / listed))
        if real.parent not in homes:
            raise FormatError(where, expected="a file inside of the folder", found=f"{listed}, a link to {real}")
        if not os.path.isfile(real):
            raise FormatError(where, expected="a file inside of the folder", found=f"{listed}, which doesn't exist")
        paths[listed] = folder / listed
    return list(paths.values())
