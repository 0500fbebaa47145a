"""How a folder says that embeddings are made of hidden rows: the files of sentence-transformers."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .arguments import one_of
from .errors import FormatError, Unsupported, shown
from .fields import Fields
from .files import parse_json, read_json
from .named_files import FilesOfFolder

POOLINGS = ("mean", "first", "last", "max")
_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": "",
    "pooling_mode_weightedmean_tokens": "",
}
_NAMED = {"mean": "mean", "cls": "first", "max": "max", "lasttoken": "last"}
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_BYTES = 1 << 20
_MAX_TOKENS = 1 << 30


@dataclass(frozen=True)
class Embedding:
    """pooling: "mean", "first", "max" or "last". normalised: to length 1. max_tokens: of a text; None: the model's."""

    pooling: str = "mean"
    normalised: bool = False
    max_tokens: int | None = None

    @classmethod
    def of(cls, folder: Path) -> Embedding:
        """From modules.json and what it names; without it, the mean. Raises FormatError, Unsupported."""
        if not os.path.exists(folder / "modules.json"):
            return PLAIN
        pooling, normalised = "mean", False
        for kind, path in _modules(folder):
            if kind == "Pooling":
                pooling = _pooling(folder, path)
            elif kind == "Normalize":
                normalised = True
            elif kind != "Transformer":
                expected = "modules of the kinds Transformer, Pooling and Normalize"
                raise Unsupported("modules.json type", expected=expected, found=shown(kind))
        return cls(pooling, normalised, _max_tokens(folder))

    def chosen(self, pooling: str | None, normalize: bool | None) -> tuple[str, bool]:
        """What a caller asks for; None: as it is here. Raises ParameterError."""
        pooling = self.pooling if pooling is None else pooling
        one_of("pooling", pooling, POOLINGS)
        return pooling, self.normalised if normalize is None else bool(normalize)


PLAIN = Embedding()  # where no file says anything


def _modules(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module. The file is a list, which `parse_json` takes in an object."""
    raw = FilesOfFolder(folder).read("modules.json", _MAX_BYTES)
    modules = parse_json(b'{"modules":' + raw + b"}", "modules.json")["modules"]
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise FormatError("modules.json", expected="a list of objects", found=shown(modules))
    found = []
    for one in modules:
        fields = Fields(one, "modules.json")
        found.append((fields.text("type").rpartition(".")[2], fields.text("path")))
    return found


def _pooling(folder: Path, path: str) -> str:
    if not _FOLDER.fullmatch(path):
        raise FormatError("modules.json path", expected="a plain name like 1_Pooling", found=shown(path))
    where = f"{path}/config.json"
    fields = Fields(read_json(folder / path / "config.json"), where)
    mode = fields.get("pooling_mode")
    if mode is not None:
        chosen = [_NAMED.get(mode, "") if isinstance(mode, str) else ""]
    else:
        chosen = [pooling for key, pooling in _POOLINGS.items() if fields.boolean(key, default=False)]
    if len(chosen) != 1 or not chosen[0]:
        raise Unsupported(where, expected="one pooling: mean, cls, max or last token", found=json.dumps(chosen))
    return chosen[0]


def _max_tokens(folder: Path) -> int | None:
    name = "sentence_bert_config.json"
    if not os.path.exists(folder / name):
        return None
    fields = Fields(read_json(folder / name), name)
    return None if fields.get("max_seq_length") is None else fields.integer("max_seq_length", _MAX_TOKENS)
