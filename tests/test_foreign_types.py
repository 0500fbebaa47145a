"""GGUF types without a format of ours: dequantised by the gguf library, packed by ours, announced in one line."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest

import foreign_blocks
import jiffy
import tiny
from jiffy import _core, foreign_types
from jiffy import weights as weights_module
from jiffy.foreign_types import natural_format, packable
from jiffy.gguf import _TENSOR_TYPES, read_gguf
from jiffy.tensor_entry import DTYPES, TensorEntry
from jiffy.weights import Packing, Weights

NATIVE = {"f32", "f16", "bf16", "q4_0", "q4_1", "q8_0"}
FOREIGN = sorted(DTYPES.keys() - NATIVE)
SIZES = dict(dim=256, ffn_dim=512, n_layers=1, n_heads=4, n_kv_heads=2)
POOL = _core.ThreadPool(2)
Q4_K = gguf.GGMLQuantizationType.Q4_K


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a tiny GGUF llama of a foreign type; returns its path and its weights, dequantised."""
    monkeypatch.setattr(tiny, "quantize", foreign_blocks.quantize)

    def written(dtype: str, **options: object) -> tuple[Path, dict[str, np.ndarray]]:
        return tmp_path / "a.gguf", tiny.write_gguf_llama(tmp_path / "a.gguf", **SIZES, dtype=dtype, **options)

    return written


def entry_of(path: Path, raw: np.ndarray, dtype: str) -> TensorEntry:
    """A matrix of blocks uint8 [rows, row bytes] as a tensor of a file."""
    path.write_bytes(raw.tobytes())
    values, n_bytes = DTYPES[dtype]
    return TensorEntry("w", dtype, (len(raw), raw.shape[1] // n_bytes * values), path, 0, raw.nbytes)


def packed(entry: TensorEntry, fmt: str | None = None) -> _core.Weight:
    return Weights({"w": entry}, Packing(POOL, weights=fmt)).matrix("w")


def test_sizes_and_numbers_are_the_librarys():
    for dtype, sizes in DTYPES.items():
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        assert sizes == gguf.GGML_QUANT_SIZES[kind], dtype
        assert _TENSOR_TYPES[kind] == dtype.upper()
    assert set(FOREIGN) == set(foreign_types._FORMATS)


def test_everything_that_the_library_dequantises_is_read():
    """But for NVFP4, whose second factor lies in other tensors."""
    known = {kind.name.lower() for kind in gguf.quants._type_traits}
    assert known - DTYPES.keys() == {"nvfp4"}


@pytest.mark.parametrize("dtype", FOREIGN)
def test_logits_are_those_of_the_dequantised_weights(write, tmp_path, dtype):
    path, weights = write(dtype)
    tiny.write_hf_llama(tmp_path / "f32", **SIZES)
    tensors = {tiny.hf_name(name): ("F32", list(w.shape), w.tobytes()) for name, w in weights.items()}
    tiny.write_safetensors(tmp_path / "f32" / "model.safetensors", tensors)
    ids = [1, 77, 200, 5, 6]
    for given, same in [("f32", "f32"), ("i4", "i4"), (None, natural_format(dtype))]:
        if (dtype, given) == ("q4_k", None):
            continue  # its codes stay, which packing floats couldn't do
        expected = jiffy.load(tmp_path / "f32", weights=same, n_threads=1).logits(ids)
        assert np.array_equal(jiffy.load(path, weights=given, n_threads=1).logits(ids), expected)


@pytest.mark.parametrize("dtype", FOREIGN)
@pytest.mark.parametrize("fmt", [None, "i4", "i8g32"])
def test_weights_are_off_by_half_a_step(tmp_path, dtype, fmt):
    """Of a group of 32: the step is its range by 15 levels, or its largest by 7.5 or 127; and f16 rounds a header."""
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    rng = np.random.default_rng(3)
    raw = foreign_blocks.quantize(rng.normal(0, 0.05, (40, 512)).astype(np.float32), kind)
    exact = gguf.quants.dequantize(raw, kind).astype(np.float64).reshape(40, 16, 32)
    weight = packed(entry_of(tmp_path / "w", raw, dtype), fmt)
    assert weight.format == (fmt or natural_format(dtype))
    largest = np.abs(exact).max(axis=2, keepdims=True)
    span = exact.max(axis=2, keepdims=True) - exact.min(axis=2, keepdims=True)
    # i4's levels are -8 to 7: the end without a level of its own may be a whole step off.
    half_step = {"i4a": span / 30, "i4": largest / 7, "i8g32": largest / 254}[weight.format]
    error = np.abs(weight.unpack().reshape(exact.shape) - exact)
    assert (error <= 1.01 * half_step + 2.0**-10 * largest).all()


def test_q4_k_keeps_its_codes(tmp_path):
    """Scale and offset are rounded to f16: by 2^-11 of 15 scales and of the offset, which are at most twice and once
    the block's largest weight, or by what its subnormals lose (2^-21 at most)."""
    rng = np.random.default_rng(1)
    raw = foreign_blocks.quantize(rng.normal(0, 0.05, (33, 1024)).astype(np.float32), Q4_K)
    assert packable(raw, "q4_k", "i4a")[1] == "q4_1"
    exact = gguf.quants.dequantize(raw, Q4_K).astype(np.float64).reshape(33, -1, 256)
    unpacked = packed(entry_of(tmp_path / "w", raw, "q4_k")).unpack().reshape(exact.shape)
    largest = np.abs(exact).max(axis=2, keepdims=True)
    assert (np.abs(unpacked - exact) <= 3 * 2.0**-11 * largest + 2.0**-21).all()
    assert np.sqrt(np.mean((unpacked - exact) ** 2) / np.mean(exact**2)) < 2.0**-11


@pytest.mark.parametrize(("factor", "exact_scales"), [(1e-6, False), (0.001, True)])
def test_q4_k_of_scales_that_f16_cannot_hold_goes_through_the_library(tmp_path, factor, exact_scales):
    rng = np.random.default_rng(1)
    raw = foreign_blocks.quantize(rng.normal(0, 40 * factor, (16, 256)).astype(np.float32), Q4_K)
    assert packable(raw, "q4_k", "i4a")[1] == ("q4_1" if exact_scales else "f32")
    exact = gguf.quants.dequantize(raw, Q4_K).astype(np.float64)
    unpacked = packed(entry_of(tmp_path / "w", raw, "q4_k")).unpack()
    assert np.sqrt(np.mean((unpacked - exact) ** 2) / np.mean(exact**2)) < (0.001 if exact_scales else 0.03)


@pytest.mark.parametrize("dtype", ["q4_k", "q6_k", "q5_1", "iq3_s"])
def test_pieces_change_nothing(tmp_path, monkeypatch, dtype):
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    values = np.random.default_rng(1).normal(size=(83, 256)).astype(np.float32)
    entry = entry_of(tmp_path / "w", foreign_blocks.quantize(values, kind), dtype)
    whole = packed(entry).unpack()
    monkeypatch.setattr(weights_module, "_PIECE_BYTES", 1)
    assert np.array_equal(packed(entry).unpack(), whole)


@pytest.mark.parametrize("dtype", ["q4_k", "q6_k", "iq1_s"])
def test_memory_is_that_of_a_piece(tmp_path, monkeypatch, dtype):
    """Beside the packed weights, which the native part holds: a piece as bytes, as floats, and the library's copies."""
    n_values, n_bytes = DTYPES[dtype]
    rows = 4096
    entry = entry_of(tmp_path / "w", np.zeros((rows, 1024 // n_values * n_bytes), np.uint8), dtype)
    packed(entry)  # imports and tables
    monkeypatch.setattr(weights_module, "_PIECE_BYTES", 1 << 20)
    tracemalloc.start()
    try:
        packed(entry)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 << 20 < rows * 1024 * 4 / 3


def test_one_line_says_so(write, capfd):
    path, _ = write("q4_k", embed_dtype="q6_k")
    jiffy.load(path, n_threads=1)
    out, err = capfd.readouterr()
    assert out == ""
    said = "jiffy: converting while loading, not without loss: 7 tensors Q4_K -> i4a, 1 tensors Q6_K -> i8g32\n"
    assert err == said
    jiffy.load(path, n_threads=1, weights="i4", head="f32")
    assert capfd.readouterr().err == "jiffy: converting while loading, not without loss: 7 tensors Q4_K -> i4\n"
    path, _ = write("q8_0")
    jiffy.load(path, n_threads=1)
    assert capfd.readouterr().err == ""


def test_the_formats_of_a_mixed_file(write):
    path, weights = write("q4_k", embed_dtype="q6_k")
    formats = jiffy.load(path, n_threads=1).info()["formats"]
    assert formats["i8g32"] == weights["embed_tokens.weight"].size
    assert set(formats) == {"i4a", "i8g32"}


def test_without_the_library(write, monkeypatch):
    path, _ = write("q6_k")
    mixed = path.with_name("b.gguf")
    tiny.write_gguf_llama(mixed, **SIZES, dtype="q4_k")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(jiffy.Unsupported, match=r"to read Q6_K: pip install 'jiffy\[gguf\]'"):
        jiffy.load(path, n_threads=1)
    assert np.isfinite(jiffy.load(mixed, n_threads=1).logits([1])).all()  # Q4_K needs none
    with pytest.raises(jiffy.Unsupported, match="to read Q4_K"):
        jiffy.load(mixed, n_threads=1, weights="f32")


def test_an_older_library(write, monkeypatch):
    path, _ = write("mxfp4")
    members = {name: kind for name, kind in gguf.GGMLQuantizationType.__members__.items() if name != "MXFP4"}
    monkeypatch.setattr(gguf, "GGMLQuantizationType", type("Older", (), {"__members__": members}))
    with pytest.raises(jiffy.Unsupported, match="a library gguf that knows MXFP4"):
        jiffy.load(path, n_threads=1)


@pytest.mark.parametrize("dtype", ["q4_k", "q6_k"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_factors_that_are_not_finite(tmp_path, dtype, bad):
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    raw = foreign_blocks.quantize(np.ones((20, 256), np.float32), kind)
    at = {"q4_k": 0, "q6_k": 208}[dtype]
    raw[7, at : at + 2] = np.array([bad], np.float16).view(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(jiffy.FormatError, match="w: expected finite weights"):
            packed(entry_of(tmp_path / "w", raw, dtype))


def test_rows_that_are_no_multiple_of_a_block(write, tmp_path):
    """The reader knows the sizes itself: a file that claims Q6_K for 32 columns is refused."""
    path = tmp_path / "b.gguf"
    tiny.write_gguf_llama(path, dtype="q8_0")
    raw = path.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = raw.index(name) + len(name) + 4 + 16
    path.write_bytes(raw[:at] + (14).to_bytes(4, "little") + raw[at + 4 :])
    with pytest.raises(jiffy.FormatError, match=r"attn_q.weight: expected rows of a multiple of 256 values \(q6_k\)"):
        read_gguf(path)


def test_the_library_is_imported_for_foreign_types_alone(tmp_path):
    tiny.write_gguf_llama(tmp_path / "a.gguf")
    code = f"import jiffy, sys; jiffy.load({str(tmp_path / 'a.gguf')!r}); sys.exit('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
