"""Reads files of static vectors: a row of numbers for each word or token, and nothing else.

GloVe's text         "word 0.1 0.2 ...", a line each
word2vec's text      the same below a line "words dim"
NAME.npy             a matrix, whose words stand in NAME.txt beside it, one a line
model.safetensors    a matrix by token ids (model2vec, wordllama), or by what "mapping" makes of token ids (model2vec);
                     tokenizer.json beside it or, as `jiffy distill` writes it, in its metadata
"""

from __future__ import annotations

import io
import tokenize
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import _core
from .errors import FormatError, OutOfMemory, Unsupported
from .files import file_size, open_file, read_into, read_json
from .named_files import MAX_TOKENIZER_BYTES, FilesOfFolder
from .safetensors import WEIGHTS_FILE, read_metadata, read_safetensors, write_safetensors
from .tensor_entry import TensorEntry
from .weights import Packing, Weights

TEXT_SUFFIXES = (".txt", ".vec")
FORMAT = "jiffy static vectors"
MAX_WORDS = 1 << 24
MAX_DIM = 1 << 14
_TOKENIZER = "tokenizer.json"
_TABLES = ("embeddings", "embedding.weight")
_ROW_WEIGHTS = "weights"
_MAPPING = "mapping"
_MAX_MAPPED = 1 << 30  # numbers of rows that a few numbers and a mapping make
_MAX_LINE = 1 << 19
_MAX_DIGITS = 40  # of a number; longer ones would make an array of all as wide as themselves
_LINES_AT_ONCE = 4096
_MAX_LIST_BYTES = 1 << 30


@dataclass(frozen=True)
class StaticTable:
    """rows: float32 [n, dim]. words: what each row is for, or else tokenizer: the tokenizers library's JSON, whose ids
    are numbers of rows."""

    rows: np.ndarray
    words: list[str] | None = None
    tokenizer: bytes | None = None


def is_static(path: Path) -> bool:
    """Whether a path is a file or a folder that `read_static` is for. Raises FormatError for a damaged one."""
    if path.is_dir():
        if not (path / WEIGHTS_FILE).is_file():
            return False
        if (path / "config.json").is_file():
            return read_json(path / "config.json").get("model_type") == "model2vec"
        return _holds_a_table(path / WEIGHTS_FILE)
    if path.suffix == ".safetensors":
        return _holds_a_table(path)
    return path.suffix in (*TEXT_SUFFIXES, ".npy")


def read_static(path: Path) -> StaticTable:
    """Raises FormatError for damaged files, rows of different lengths, words that come twice, numbers that are none,
    and sizes out of bounds; Unsupported for other kinds of files."""
    try:
        if path.suffix in TEXT_SUFFIXES:
            return _read_text(path)
        if path.suffix == ".npy":
            return _read_npy(path)
        return _read_safetensors(path / WEIGHTS_FILE if path.is_dir() else path)
    except MemoryError:
        raise OutOfMemory(str(path), expected="memory for all vectors", found="too little") from None


def write_static(path: Path, rows: np.ndarray, tokenizer: str) -> None:
    """Raises FormatError naming the file if it can't be written."""
    write_safetensors(path, {_TABLES[0]: rows}, {"format": FORMAT, "tokenizer": tokenizer})


def _holds_a_table(path: Path) -> bool:
    names = set(read_safetensors(path))
    return bool(names & set(_TABLES)) and names <= {*_TABLES, _ROW_WEIGHTS, _MAPPING}


def _read_safetensors(path: Path) -> StaticTable:
    tensors = read_safetensors(path)
    tables = [name for name in _TABLES if name in tensors]
    if len(tables) != 1:
        raise Unsupported(str(path), expected=f"one tensor {' or '.join(_TABLES)}", found=", ".join(tensors) or "none")
    entry = tensors[tables[0]]
    if len(entry.shape) != 2 or entry.shape[0] > MAX_WORDS or entry.shape[1] > MAX_DIM:
        expected = f"at most [{MAX_WORDS}, {MAX_DIM}]"
        raise FormatError(f"{path.name} {entry.name} shape", expected=expected, found=str(list(entry.shape)))
    weights = Weights(tensors, Packing(_core.ThreadPool(1)))
    rows = weights.table(entry.name)
    if _MAPPING in tensors:
        rows = rows[_mapping(path, tensors[_MAPPING], *rows.shape)]
    if _ROW_WEIGHTS in tensors:
        rows *= _row_weights(path, tensors[_ROW_WEIGHTS], weights, len(rows))[:, None]
    inside = read_metadata(path).get("tokenizer")
    if inside is not None:
        return StaticTable(rows, tokenizer=inside.encode())
    return StaticTable(rows, tokenizer=FilesOfFolder(path.parent).read(_TOKENIZER, MAX_TOKENIZER_BYTES))


def _mapping(path: Path, entry: TensorEntry, n_rows: int, dim: int) -> np.ndarray:
    """The row of each token id."""
    where = f"{path.name} {entry.name}"
    if entry.dtype not in ("i32", "i64"):
        raise Unsupported(f"{where} dtype", expected="I32 or I64", found=entry.dtype.upper())
    most = min(MAX_WORDS, _MAX_MAPPED // dim)
    if len(entry.shape) != 1 or entry.shape[0] > most:
        raise FormatError(f"{where} shape", expected=f"1 to {most} tokens", found=str(list(entry.shape)))
    numbers = entry.read_rows(0, entry.n_rows).reshape(-1).view({"i32": "<i4", "i64": "<i8"}[entry.dtype])
    if numbers.min() < 0 or numbers.max() >= n_rows:
        found = f"{numbers.min()} to {numbers.max()}"
        raise FormatError(where, expected=f"rows 0 to {n_rows - 1}", found=found)
    return numbers


def _row_weights(path: Path, entry: TensorEntry, weights: Weights, n_rows: int) -> np.ndarray:
    if entry.shape != (n_rows,):
        raise FormatError(f"{path.name} {entry.name} shape", expected=f"[{n_rows}]", found=str(list(entry.shape)))
    return weights.vector(entry.name)


def _read_npy(path: Path) -> StaticTable:
    rows = _npy_rows(path)
    words = read_words(path.with_suffix(".txt"))
    if len(words) != len(rows):
        raise FormatError(
            path.with_suffix(".txt").name, expected=f"{len(rows)} words, a line each", found=str(len(words))
        )
    return StaticTable(rows, _distinct(words, path.with_suffix(".txt").name))


def _npy_rows(path: Path) -> np.ndarray:
    where = f"{path.name} header"
    with open_file(path) as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise FormatError(where, expected="version 1.0", found="another")
            shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
        except FormatError:
            raise
        except (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError) as error:
            raise FormatError(where, expected="an array as numpy writes it", found=str(error)) from None
        kind = (dtype.kind, dtype.isnative, in_columns, len(shape))
        if kind != ("f", True, False, 2) or not 1 <= shape[0] <= MAX_WORDS or not 1 <= shape[1] <= MAX_DIM:
            expected = f"a matrix of floats in order of rows, at most {MAX_WORDS} x {MAX_DIM}"
            raise FormatError(where, expected=expected, found=f"{dtype} {list(shape)}")
        begin, size = file.tell(), shape[0] * shape[1] * dtype.itemsize
        if file_size(file) != begin + size:
            raise FormatError(path.name, expected=f"{begin + size} bytes", found=str(file_size(file)))
        rows = np.empty(shape, dtype)
        read_into(file, begin, memoryview(rows).cast("B"), path.name)
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise FormatError(f"{path.name} row {wrong[0]}", expected="finite numbers", found="NaN or infinity")
    return rows


def read_words(path: Path) -> list[str]:
    """The lines of a file. Raises FormatError for empty ones and for what is no UTF-8."""
    with open_file(path) as file:
        size = file_size(file)
        if size > _MAX_LIST_BYTES:
            raise FormatError(path.name, expected=f"at most {_MAX_LIST_BYTES} bytes", found=str(size))
        raw = bytearray(size)
        read_into(file, 0, memoryview(raw), path.name)
    lines = bytes(raw).removesuffix(b"\n").split(b"\n") if raw else []
    return [_word(line.removesuffix(b"\r"), f"{path.name} line {i}") for i, line in enumerate(lines, 1)]


def _word(raw: bytes, where: str) -> str:
    try:
        word = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(where, expected="UTF-8", found=f"byte 0x{raw[error.start]:02x}") from None
    if not word:
        raise FormatError(where, expected="a word", found="none")
    return word


def _distinct(words: list[str], where: str) -> list[str]:
    if len(set(words)) < len(words):
        word, times = Counter(words).most_common(1)[0]
        raise FormatError(where, expected="every word once", found=f'"{word}" {times} times')
    return words


def _read_text(path: Path) -> StaticTable:
    with open_file(path) as raw, io.BufferedReader(raw, 1 << 20) as file:
        head = file.readline(_MAX_LINE).split()
        counts = len(head) == 2 and all(one.isdigit() and len(one) < 10 for one in head)
        n_words, dim = map(int, head) if counts else (None, len(head) - 1)
        if not 1 <= dim <= MAX_DIM:
            raise FormatError(f"{path.name} line 1", expected=f"a word and 1 to {MAX_DIM} numbers", found=str(dim))
        if not counts:
            file.seek(0)
        reader = _TextRows(path.name, dim, 2 if counts else 1)
        for line in iter(lambda: file.readline(_MAX_LINE + 1), b""):
            reader.add(line)
        rows = reader.finished()
    if n_words is not None and n_words != len(rows):
        raise FormatError(f"{path.name} line 1", expected=f"{len(rows)} words, as there are", found=str(n_words))
    return StaticTable(rows, _distinct(reader.words, path.name))


class _TextRows:
    """Lines to rows, thousands at a time. first: the number of the first line."""

    def __init__(self, name: str, dim: int, first: int) -> None:
        self.words: list[str] = []
        self._name, self._dim, self._first = name, dim, first
        self._fields: list[bytes] = []
        self._blocks: list[np.ndarray] = []

    def add(self, line: bytes) -> None:
        where = self._where(len(self.words))
        word, *fields = line.rstrip().rsplit(None, self._dim) or [b""]
        if len(line) > _MAX_LINE or len(fields) != self._dim or len(self.words) == MAX_WORDS:
            expected = f"a word and {self._dim} numbers, at most {_MAX_LINE} bytes, of at most {MAX_WORDS} lines"
            raise FormatError(where, expected=expected, found=f"{len(fields)} numbers")
        self.words.append(_word(word, where))
        self._fields += fields
        if len(self._fields) == _LINES_AT_ONCE * self._dim:
            self._convert()

    def finished(self) -> np.ndarray:
        if self._fields:
            self._convert()
        if not self._blocks:
            raise FormatError(self._name, expected="at least one word", found="none")
        return np.concatenate(self._blocks)

    def _convert(self) -> None:
        block = _numbers(self._fields)
        if block is None:
            begin = len(self.words) - len(self._fields) // self._dim
            lines = (self._fields[i : i + self._dim] for i in range(0, len(self._fields), self._dim))
            wrong = next(i for i, fields in enumerate(lines) if _numbers(fields) is None)
            raise FormatError(self._where(begin + wrong), expected="finite numbers", found="something else")
        self._blocks.append(block.reshape(-1, self._dim))
        self._fields = []

    def _where(self, word: int) -> str:
        return f"{self._name} line {self._first + word}"


def _numbers(fields: Sequence[bytes]) -> np.ndarray | None:
    """float32, None where one isn't finite or no number."""
    if max(map(len, fields)) > _MAX_DIGITS:
        return None
    try:
        with np.errstate(over="ignore"):
            values = np.array(fields).astype(np.float32)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None
