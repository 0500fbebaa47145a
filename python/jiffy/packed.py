"""The packed model file: a program and its weights as they are in memory, with all that speaks of the model in text.

`csrc/program/packed_head.h` draws it; the native side writes, reads and checks it. Python adds attachments: the config,
the files of the tokenizer, and what the file was packed from.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import _core
from .errors import FormatError, ParameterError, shown
from .files import parse_json
from .gguf import metadata_bytes, parse_metadata
from .graph import Trace
from .named_files import FilesOfFolder, NamedFiles
from .packed_config import config_from_json, config_to_json
from .prepared import Prepared
from .rope import DynamicScaling
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Config
    from .loading import Loading

_CONFIG, _SOURCE, _GGUF = "config", "source", "tokenizer.gguf"


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a packed model file, as that says of itself."""
    return os.path.isfile(path) and _core.is_packed(os.fsencode(path))


def write_packed(path: str | os.PathLike[str], model: Prepared, source: Mapping[str, object]) -> None:
    """Writes a model that has just been packed; source: what `packed_source` will tell of it.

    Raises FormatError naming the path if it can't be written; then nothing of it is left.
    """
    longest = model.config.context_length
    if isinstance(model.config.rope_scaling, DynamicScaling):
        longest = model.loading.context
    attachments = {_CONFIG: config_to_json(model.config), _SOURCE: json.dumps(source).encode()}
    attachments |= _tokenizer_files(model)
    _core.write_packed(
        os.fsencode(path),
        model.program,
        [(name, node.index) for name, node in model.trace.marks.items()],
        list(attachments.items()),
        longest,
        model.pool,
    )


def packed_source(path: str | os.PathLike[str]) -> dict[str, object]:
    """What a packed file says that it was made from. Raises FormatError, Unsupported."""
    where = f"{Path(path).name} {_SOURCE}"
    return parse_json(_core.PackedFile(os.fsencode(path)).attachment(_SOURCE), where)


def load_packed(path: Path, loading: Loading) -> Prepared:
    """A model out of its packed file. Raises FormatError naming what is damaged, Unsupported for a file of another
    jiffy, ParameterError for arguments that the file has decided."""
    for name in ("weights", "head"):
        if getattr(loading, name) is not None:
            expected = "None: a packed file has its formats; pack the model anew"
            raise ParameterError(name, expected=expected, found=shown(getattr(loading, name)))
    packed = _core.PackedFile(os.fsencode(path))
    if packed.has(_SOURCE):
        packed.attachment(_SOURCE)  # nobody reads it here, but damage is seen
    config = _config(packed, path)
    config = dataclasses.replace(config, context_length=min(config.context_length, packed.context_length))
    if packed.one_context and loading.context is None:
        loading = dataclasses.replace(loading, context=packed.context_length)
    return _read(packed, config, path, path, loading.completed(config))


def load_kept(file: Path, path: Path, loading: Loading) -> Prepared | None:
    """The same, of a file that stands for the model at `path`; None if it is for another context."""
    packed = _core.PackedFile(os.fsencode(file))
    config = _config(packed, file)
    loading = loading.completed(config)
    if packed.one_context and loading.context != packed.context_length:
        return None
    return _read(packed, config, file, path, loading)


def _config(packed: _core.PackedFile, file: Path) -> Config:
    return config_from_json(packed.attachment(_CONFIG), f"{file.name} {_CONFIG}")


def _read(packed: _core.PackedFile, config: Config, file: Path, path: Path, loading: Loading) -> Prepared:
    pool = _core.ThreadPool(loading.n_threads)
    program = packed.program(loading.context, pool)
    if config.vocab_size != program.vocab_size:
        where = f"{file.name} {_CONFIG} vocab_size"
        raise FormatError(where, expected=f"{program.vocab_size}, as in its program", found=str(config.vocab_size))
    tokenizer = Tokenizer.from_source(_tokenizer_source(packed, file.name))
    return Prepared(path, loading, pool, config, tokenizer, Trace.of(program, packed.marks), program)


def _tokenizer_files(model: Prepared) -> dict[str, bytes]:
    from .tokenizer_hf import MAX_TOKENIZER_BYTES, TOKENIZER_FILES

    checkpoint = model.checkpoint
    if not isinstance(checkpoint.tokenizer_source, Path):
        return {_GGUF: metadata_bytes(checkpoint.path)}
    files = FilesOfFolder(checkpoint.tokenizer_source)
    read = {name: files.read(name, MAX_TOKENIZER_BYTES) for name in TOKENIZER_FILES if files.has(name)}
    return {name: raw for name, raw in read.items() if raw}  # an attachment has a byte at least


def _tokenizer_source(packed: _core.PackedFile, name: str) -> NamedFiles | Mapping[str, object]:
    if packed.has(_GGUF):
        return parse_metadata(packed.attachment(_GGUF), f"{name} {_GGUF}")
    from .tokenizer_hf import TOKENIZER_FILES

    return NamedFiles({one: packed.attachment(one) for one in TOKENIZER_FILES if packed.has(one)})
