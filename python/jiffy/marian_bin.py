"""Marian's own model files (.bin), as browsers use them for translation: encoders with attention, decoders with a
recurrent unit (SSRU; Kim et al. 2019) or with attention, in float32 or in 8 bits for the library intgemm.

    u64 version | u64 n | n headers of 4 x u64: name length, type, dimensions, data length | names, zero-terminated |
    dimensions, int32 | u64 padding length | padding | data

intgemm's matrices lie as int8 [out, in] although their dimensions say [in, out], with a float32 behind them: a weight
is its integer divided by that. The vocabulary's matrix [vocabulary, dim] alone isn't turned.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from .checkpoint import Checkpoint
from .config import MAX_DIM, MAX_LAYERS, MAX_VOCAB
from .errors import FormatError, Unsupported, shown
from .fields import Fields
from .files import open_file
from .named_files import FilesOfFolder, NamedFiles
from .notice import notify
from .seq2seq_checkpoint import wanted_tensors
from .seq2seq_config import Generation, Seq2SeqConfig, Stack
from .tensor_entry import ArrayEntry

_F32, _INTGEMM8, _INT8 = 0x404, 0x4101, 0x101
_MAX_TENSORS, _MAX_NAME, _MAX_DIMS, _MAX_BYTES = 1 << 14, 1 << 10, 8, 1 << 34
_MODEL = "special:model.yml"
_CONTEXT = 1024  # Marian computes its positions; sentences of its corpora are shorter
_LINE = re.compile(r"(\S[^:]*): *(.*)")
# Keys of model.yml, and the only values that are computed here; what such a key changes is in its name.
_ONLY = {
    "type": ("transformer",),
    "transformer-preprocess": ("",),
    "transformer-postprocess": ("dan",),
    "transformer-postprocess-emb": ("d",),
    "transformer-postprocess-top": ("",),
    "transformer-train-position-embeddings": ("false",),
    "transformer-ffn-depth": ("2",),
    "transformer-no-projection": ("false",),
    "tied-embeddings-all": ("true",),
    "dec-cell": ("ssru",),
}
_PAIR = re.compile(r"(?<=\.)[a-z]{4}(?=\.)")  # two languages within a file's name
_ATTENTION = {"q": "Wq bq", "k": "Wk bk", "v": "Wv bv", "o": "Wo bo", "norm": "Wo_ln_scale Wo_ln_bias"}
_FFN = {"up": "W1 b1", "down": "W2 b2", "norm": "ffn_ln_scale ffn_ln_bias"}
_RNN = {"forget": "Wf bf", "x": "W -", "norm": "ffn_ln_scale ffn_ln_bias"}
_PARTS = {"self_attn": ("self", _ATTENTION), "cross_attn": ("context", _ATTENTION), "ffn": ("ffn", _FFN)}
NEVER = -1e30  # the logit of an id that is never said; finite, as logits must be


@dataclass(frozen=True)
class _Tensor:
    name: str
    kind: int
    dims: tuple[int, ...]
    offset: int
    n_bytes: int


class MarianFile:
    """The tensors of a file; only its head is read at first. Raises FormatError for what is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_file(path) as file:
            self._size = os.fstat(file.fileno()).st_size
            self.tensors = {tensor.name: tensor for tensor in self._head(file)}

    def floats(self, name: str) -> np.ndarray:
        """float32, in the dimensions that the file says; matrices of intgemm as they lie, [out, in]."""
        tensor = self.tensors[name]
        n = math.prod(tensor.dims)
        if tensor.kind == _F32:
            return self._read(tensor, np.float32, n).reshape(tensor.dims)
        if tensor.kind != _INTGEMM8:
            raise Unsupported(self._where(name), expected="float32, or 8 bits for intgemm", found=hex(tensor.kind))
        raw = self._read(tensor, np.int8, n + 4)
        multiplier = raw[n:].view(np.float32)[0]
        if not math.isfinite(multiplier) or multiplier == 0:
            raise FormatError(self._where(name), expected="a multiplier that is a number", found=str(multiplier))
        dims = tensor.dims if name.endswith("Wemb") else tensor.dims[::-1]
        return (raw[:n] / multiplier).astype(np.float32).reshape(dims)

    def matrix(self, name: str) -> np.ndarray:
        """float32 [out, in]."""
        tensor = self.tensors[name]
        turned = tensor.kind == _F32 and not name.endswith("Wemb")
        return self.floats(name).T if turned else self.floats(name)

    def model_yml(self) -> Fields:
        """The keys of special:model.yml that have a value on their line, all as texts."""
        if _MODEL not in self.tensors:
            raise FormatError(self._where(_MODEL), expected="the model's description", found="none")
        tensor = self.tensors[_MODEL]
        raw = self._read(tensor, np.uint8, tensor.n_bytes).tobytes().rstrip(b"\0")
        lines = (_LINE.fullmatch(line) for line in raw.decode("utf-8", "replace").splitlines())
        return Fields({one[1]: one[2].strip('"') for one in lines if one}, f"{self.path.name} {_MODEL}")

    def _head(self, file) -> Iterator[_Tensor]:
        _, n = struct.unpack("<QQ", self._take(file, 16, "head"))
        if not 0 < n <= _MAX_TENSORS:
            raise FormatError(self._where("head"), expected=f"1 to {_MAX_TENSORS} tensors", found=str(n))
        headers = list(struct.iter_unpack("<4Q", self._take(file, 32 * n, "headers")))
        for length, _, rank, n_bytes in headers:
            if length > _MAX_NAME or rank > _MAX_DIMS or n_bytes > _MAX_BYTES:
                found = f"{length}, {rank}, {n_bytes}"
                raise FormatError(self._where("headers"), expected="lengths that a tensor can have", found=found)
        names = [self._take(file, length, "names").rstrip(b"\0").decode("utf-8", "replace") for length, *_ in headers]
        dims = [struct.unpack(f"<{rank}i", self._take(file, 4 * rank, "dimensions")) for *_, rank, _ in headers]
        (padding,) = struct.unpack("<Q", self._take(file, 8, "padding"))
        if padding > self._size:
            raise FormatError(self._where("padding"), expected="less than the file has", found=str(padding))
        offset = file.tell() + padding
        for name, (_, kind, _, n_bytes), shape in zip(names, headers, dims, strict=True):
            if any(not 0 < one <= MAX_VOCAB for one in shape):
                raise FormatError(self._where(name), expected="dimensions above 0", found=str(shape))
            yield _Tensor(name, kind, shape, offset, n_bytes)
            offset += n_bytes
        if offset > self._size:
            raise FormatError(self._where("data"), expected=f"{offset} bytes", found=str(self._size))

    def _take(self, file, n: int, what: str) -> bytes:
        raw = file.read(n) if n <= self._size else b""
        if len(raw) < n:
            raise FormatError(self._where(what), expected=f"{n} bytes", found=str(len(raw)))
        return raw

    def _read(self, tensor: _Tensor, kind: type, n: int) -> np.ndarray:
        n_bytes = n * np.dtype(kind).itemsize
        if n_bytes > tensor.n_bytes:
            expected = f"{n_bytes} bytes for {list(tensor.dims)}"
            raise FormatError(self._where(tensor.name), expected=expected, found=str(tensor.n_bytes))
        with open_file(self.path) as file:
            file.seek(tensor.offset)
            return np.frombuffer(self._take(file, n_bytes, tensor.name), kind)

    def _where(self, name: str) -> str:
        return f"{self.path.name} {name}"


def open_marian(path: Path) -> Checkpoint:
    """A model file. Behind the vocabulary there is one more id, whose embedding is zeros: what a decoder begins with.

    Raises FormatError, Unsupported.
    """
    file = MarianFile(path)
    config = _config(file)
    tensors: dict[str, ArrayEntry] = {}
    for name, shape, optional in wanted_tensors(config):
        values = _values(file, config, name)
        if values is None and optional:
            continue
        if values is None or list(values.shape) != shape:
            found = "no such tensor" if values is None else str(list(values.shape))
            raise FormatError(f"{path.name} {_their_name(name)}", expected=str(shape), found=found)
        tensors[name] = ArrayEntry.of(name, values, path)
    return Checkpoint(path, config, tensors, FilesOfFolder(path.parent), "i8")  # as many bits as in the file


def _values(file: MarianFile, c: Seq2SeqConfig, name: str) -> np.ndarray | None:
    theirs = _their_name(name)
    if theirs not in file.tensors:
        return None
    if name == "embed_tokens.weight":
        return np.concatenate([file.matrix(theirs), np.zeros((1, c.dim), np.float32)])
    if name == "logits.bias":
        return np.append(file.floats(theirs).reshape(-1), np.float32(NEVER))
    matrix = name.endswith(".weight") and not name.endswith("norm.weight")
    return file.matrix(theirs) if matrix else file.floats(theirs).reshape(-1)


def _their_name(name: str) -> str:
    if name in ("embed_tokens.weight", "logits.bias", "lm_head.weight"):
        return {"embed_tokens.weight": "Wemb", "logits.bias": "decoder_ff_logit_out_b"}.get(name, "-")
    side, _, layer, block, part, kind = name.split(".")
    rnn = block == "rnn"
    theirs, parts = ("rnn", _RNN) if rnn else _PARTS[block]
    return f"{side}_l{int(layer) + 1}_{theirs}_{parts[part].split()[kind == 'bias']}"


def _config(file: MarianFile) -> Seq2SeqConfig:
    yml = file.model_yml()
    for key, allowed in _ONLY.items():
        yml.only(key, allowed, default=allowed[0])
    if "Wemb" not in file.tensors or len(file.tensors["Wemb"].dims) != 2:
        raise FormatError(f"{file.path.name} Wemb", expected="a matrix", found="none")
    rows, dim = file.tensors["Wemb"].dims
    n_heads = _number(yml, "transformer-heads", MAX_DIM)
    if dim % 2 or dim % n_heads or dim > MAX_DIM:
        raise FormatError(f"{file.path.name} Wemb", expected=f"an even width for {n_heads} heads", found=str(dim))
    ffn_dim = _number(yml, "transformer-dim-ffn", MAX_DIM)
    recurrent = yml.text("transformer-decoder-autoreg", default="self-attention")
    activation = yml.text("transformer-ffn-activation", default="swish")
    if recurrent not in ("rnn", "self-attention") or activation not in ("relu", "swish"):
        expected = "rnn or self-attention, and relu or swish"
        raise Unsupported(yml.place("transformer-decoder-autoreg"), expected=expected, found=shown(recurrent))
    return Seq2SeqConfig(
        model_type="marian",
        dim=dim,
        head_dim=dim // n_heads,
        encoder=Stack(_number(yml, "enc-depth", MAX_LAYERS), n_heads, ffn_dim),
        decoder=Stack(_number(yml, "dec-depth", MAX_LAYERS), n_heads, ffn_dim),
        vocab_size=rows + 1,
        context_length=_CONTEXT,
        n_positions=_CONTEXT,
        norm_eps=1e-9,
        activation={"relu": "relu", "swish": "silu"}[activation],
        decoder_start_id=rows,
        eos_ids=(),  # its vocabulary says
        positions="sinusoidal",
        embed_scale=dim**0.5,
        ssru=recurrent == "rnn",
        zero_id=rows,
        generation=Generation(),
    )


def _number(yml: Fields, key: str, most: int) -> int:
    text = yml.text(key)
    if not re.fullmatch("[0-9]{1,9}", text):
        raise yml.error(key, "a number", text)
    return Fields({key: int(text)}, yml.place("").strip()).integer(key, most)


def is_marian(path: Path) -> bool:
    """Whether a path is a Marian model file, or a folder with one and a vocabulary."""
    if path.is_dir():
        return len(_models(path)) == 1 and bool(_vocabularies(FilesOfFolder(path)))
    return path.suffix == ".bin" and path.is_file()


def model_file(path: Path) -> Path:
    """The file itself, or the one of a folder."""
    return _models(path)[0] if path.is_dir() else path


def vocabulary_names(files: NamedFiles) -> tuple[str, str]:
    """Of the source and of the target, among the files beside a model. One "vocab...spm" serves both sides; of two,
    "src" stands in the name of the first. Raises FormatError for none, or more."""
    found = _vocabularies(files)
    if not 0 < len(found) <= 2:
        expected = "one or two vocabularies, *vocab*.spm, beside a model"
        raise FormatError(files.place, expected=expected, found=str(len(found)))
    source = next((one for one in found if "src" in one), found[0])
    return source, next((one for one in found if one != source), source)


def shortlist_name(files: NamedFiles) -> str | None:
    """Of the shortlist among the files beside a model, lex*.bin: if there is just one for its direction. One whose name
    says a pair of languages ("lex.50.50.enpt.s2t.bin") is for a model whose vocabulary says no other; "t2s" is the
    other direction."""
    source = vocabulary_names(files)[0]
    found = [name for name in files.names() if fnmatchcase(name, "lex*.bin") and _fits(name, source)]
    if len(found) > 1:
        notify(f"{files.place}: of {', '.join(found)} no shortlist is used; load(shortlist=...) says which")
    return found[0] if len(found) == 1 else None


def _fits(shortlist: str, vocabulary: str) -> bool:
    pairs = [set(_PAIR.findall(name)) for name in (shortlist, vocabulary)]
    return ".t2s." not in shortlist and (pairs[0] == pairs[1] or not all(pairs))


def _models(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.bin"))


def _vocabularies(files: NamedFiles) -> list[str]:
    return [name for name in files.names() if fnmatchcase(name, "*vocab*.spm")]
