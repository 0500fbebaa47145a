"""Which files of a repository make up a model: never pickles, never code."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import Error, FormatError, ParameterError, Unsupported, shown
from ..files import read_json
from ..safetensors import INDEX_FILE, WEIGHTS_FILE
from .names import HubModel

_BESIDE_WEIGHTS = (
    "config*.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template*.jinja",
    "chat_template*.json",
    "modules.json",
    "sentence_bert_config.json",
)
_MODULE = re.compile(r"[0-9]+_[A-Za-z]+/config\.json")  # of sentence-transformers: how embeddings are pooled
_NEEDED = ("config.json", "tokenizer.json")
_PART_OF_GGUF = re.compile(r".*-[0-9]{5}-of-[0-9]{5}\.gguf")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MOST_LISTED = 12  # an error's text is bounded


def select_files(model: HubModel, names: Collection[str], path_of: Callable[[str], Path]) -> list[str]:
    """The files wanted, weights last: one .gguf file, or safetensors with what lies beside them.

    names: all files of the repository. path_of gives a file's place on this disk (fetching it, perhaps): an index says
    which shards there are. Raises ParameterError where the model has to be named more exactly, FormatError for an index
    that disagrees with the repository, Unsupported where there are no weights that jiffy reads.
    """
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if model.file is not None:
        return [_one_gguf(model, model.file, gguf)]
    weights = _safetensors(model, names, path_of)
    if weights:
        for name in _NEEDED:
            if name not in names:  # said before gigabytes are fetched
                raise Unsupported(str(model), expected=f"{name} beside the weights", found="none")
        small = {name for name in names for glob in _BESIDE_WEIGHTS if "/" not in name and fnmatchcase(name, glob)}
        modules = {name for name in names if _MODULE.fullmatch(name)}
        return [*sorted(small | modules), *weights]
    if len(gguf) == 1:
        return [_one_gguf(model, gguf[0], gguf)]
    if gguf:
        expected = f'one of its GGUF files, as in "{model}:{gguf[0]}"'
        raise ParameterError(str(model), expected=expected, found=_listed(gguf))
    raise _no_weights(model, names)


def _one_gguf(model: HubModel, name: str, gguf: list[str]) -> str:
    if name not in gguf:
        expected = f"a GGUF file of {model.repo}: {_listed(gguf) or 'it has none'}"
        raise ParameterError("name_or_path", expected=expected, found=shown(name))
    if _PART_OF_GGUF.fullmatch(name):
        raise Unsupported(str(model), expected="a GGUF file in one piece", found=name)
    return name


def _safetensors(model: HubModel, names: Collection[str], path_of: Callable[[str], Path]) -> list[str]:
    if WEIGHTS_FILE in names:
        return [WEIGHTS_FILE]
    if INDEX_FILE not in names:
        return []
    weight_map = read_json(path_of(INDEX_FILE)).get("weight_map")
    shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
    plain = {name for name in names if "/" not in name and name.endswith(".safetensors")}
    for shard in shards or [None]:
        if not isinstance(shard, str) or shard not in plain:
            where = f"{model} {INDEX_FILE}"
            raise FormatError(where, expected="names of the repository's safetensors", found=shown(shard))
    return [INDEX_FILE, *dict.fromkeys(shards)]


def _no_weights(model: HubModel, names: Collection[str]) -> Error:
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    expected = f"{WEIGHTS_FILE} (or shards with an index) or a .gguf file"
    if pickles:  # a pickle can run any code while it is read
        expected += "; convert the pickle with transformers' save_pretrained, or name a repository that has done it"
    return Unsupported(str(model), expected=expected, found=_listed(pickles) or f"{len(names)} files, none of them")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
