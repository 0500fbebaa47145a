"""The packed model file: programs and their weights as they are in memory, with all that speaks of the model in text.

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
from .config import Config
from .errors import FormatError, ParameterError, shown
from .families import family_of_config
from .files import parse_json
from .gguf import metadata_bytes, parse_metadata
from .graph import Trace, Traced
from .named_files import MAX_TOKENIZER_BYTES, NamedFiles
from .packed_config import config_from_json, config_to_json
from .prepared import Prepared
from .rope import DynamicScaling

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .loading import Loading
    from .packed_config import AnyConfig

_CONFIG, _SOURCE, _GGUF = "config", "source", "tokenizer.gguf"


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a packed model file, as that says of itself."""
    return os.path.isfile(path) and _core.is_packed(os.fsencode(path))


def write_packed(path: str | os.PathLike[str], model: Prepared, source: Mapping[str, object]) -> None:
    """Writes a model that has just been packed; source: what `packed_source` will tell of it.

    Raises FormatError naming the path if it can't be written; then nothing of it is left.
    """
    attachments = {_CONFIG: config_to_json(model.config), _SOURCE: json.dumps(source).encode()}
    attachments |= _tokenizer_files(model)
    programs = [
        (name, one.program, [(mark, node.index) for mark, node in one.trace.marks.items()])
        for name, one in model.programs.items()
    ]
    longest = _longest_context(model, [one for _, one, _ in programs])
    _core.write_packed(os.fsencode(path), programs, list(attachments.items()), longest, model.pool)


def packed_source(path: str | os.PathLike[str]) -> dict[str, object]:
    """What a packed file says that it was made from. Raises FormatError, Unsupported."""
    where = f"{Path(path).name} {_SOURCE}"
    return parse_json(_core.PackedFile(os.fsencode(path)).attachment(_SOURCE), where)


def packed_config(path: Path) -> AnyConfig:
    """The config in a packed file. Raises FormatError, Unsupported."""
    return _config(_core.PackedFile(os.fsencode(path)), path)


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
    fits = loading.context == packed.context_length or not packed.one_context
    if not fits or loading.context > packed.context_length:
        return None
    return _read(packed, config, file, path, loading)


def _config(packed: _core.PackedFile, file: Path) -> AnyConfig:
    return config_from_json(packed.attachment(_CONFIG), f"{file.name} {_CONFIG}")


def _read(packed: _core.PackedFile, config: AnyConfig, file: Path, path: Path, loading: Loading) -> Prepared:
    family = family_of_config(config)
    pool = _core.ThreadPool(loading.n_threads)
    programs = _programs(packed, loading.context, pool)
    _check(config, programs, file.name)
    text = _text(packed, file.name)
    reader = family.reader(text, config, loading)
    return Prepared(path, loading, pool, config, reader, programs)


def _check(config: AnyConfig, programs: Mapping[str, Traced], file: str) -> None:
    """That the programs are those of such a model."""
    family = family_of_config(config)
    for name in {**dict.fromkeys(family.body), **family.widths(config)}:
        if name not in programs:
            raise FormatError(f"{file} programs", expected=name, found=", ".join(programs) or "none")
    of_programs = [("vocab_size", programs[name].program.vocab_size, config.vocab_size) for name in family.body]
    of_programs += [(f"width of {name}", programs[name].program.width, n) for name, n in family.widths(config).items()]
    for what, found, stated in of_programs:
        if found != stated:
            where = f"{file} {_CONFIG} {what}"
            raise FormatError(where, expected=f"{found}, as in its program", found=str(stated))


def _programs(packed: _core.PackedFile, context: int, pool: _core.ThreadPool) -> dict[str, Traced]:
    """Their traces have the same objects for the parameters that they share."""
    listed = packed.programs(context, pool)
    parameters = listed[0][1].parameters if listed else []
    return {name: _traced(program, marks, parameters) for name, program, marks in listed}


def _traced(program: _core.Program, marks: list[tuple[str, int]], parameters: list[tuple[str, object]]) -> Traced:
    return Traced(Trace.of(program, marks, parameters), lambda: program)


def _longest_context(model: Prepared, programs: list[_core.Program]) -> int:
    """What the model may be loaded with: rope tables are made anew, those of positions have the rows that they have."""
    config, context = model.config, model.loading.context
    if isinstance(config, Config) and isinstance(config.rope_scaling, DynamicScaling):
        return context
    return min([config.context_length, *(rows for program in programs for rows in _position_rows(program))])


def _position_rows(program: _core.Program) -> Iterator[int]:
    parameters = program.parameters
    for at in program.instructions:
        if at.op == "embedding" and at.attributes.indices == _core.Indices.positions:
            yield len(parameters[at.parameters[0]][1])


def _tokenizer_files(model: Prepared) -> dict[str, bytes]:
    files = model.text
    if not isinstance(files, NamedFiles):
        return {_GGUF: metadata_bytes(model.path)}
    names = model.family.text_files(files, model.config)
    read = {name: files.read(theirs, MAX_TOKENIZER_BYTES) for name, theirs in names.items() if files.has(theirs)}
    return {name: raw for name, raw in read.items() if raw}  # an attachment has a byte at least


def _text(packed: _core.PackedFile, name: str) -> NamedFiles | Mapping[str, object]:
    if packed.has(_GGUF):
        return parse_metadata(packed.attachment(_GGUF), f"{name} {_GGUF}")
    names = [one for one in packed.attachments if one not in (_CONFIG, _SOURCE)]
    return NamedFiles({one: packed.attachment(one) for one in names}, name)
