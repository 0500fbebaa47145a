"""ggml's tensor types beyond those that packing takes over: dequantised piece by piece, then packed anew.

The library gguf dequantises them. Q4_K, of which most files are made, needs no library when it becomes i4a: both are 16
levels with a scale and an offset for 32 weights, so its codes stay and only scale and offset are rounded to f16.

Measured, what packing adds: root mean square error by the weights' own, on 256 x 2048. Blocks come from the library's
quantiser and N(0, 0.02) where it has one (*), else from uniformly random codes:

    type     bits   i4      i4a     i8g32        type     bits   i4      i4a     i8g32
    Q2_K     2.62   0.066   0.037   0.0041       IQ2_XXS  2.06   0.116   0.027   0.0042
    Q3_K     3.44   0.053   0.068   0.0046       IQ2_XS   2.31   0.109   0.062   0.0048
    Q4_K     4.50   0.061   0.015   0.0038       IQ2_S    2.56   0.106   0.062   0.0048
      by its codes          0.0002               IQ3_XXS  3.06   0.108   0.052   0.0042
    Q5_K     5.50   0.060   0.034   0.0038       IQ3_S    3.44   0.088   0.051   0.0050
    Q6_K     6.56   0.074   0.071   0.0045       IQ4_NL   4.50   0.068   0.068   0.0012
    Q5_0 *   5.50   0.104   0.079   0.0052       IQ4_XS   4.25   0.068   0.068   0.0012
    Q5_1 *   6.00   0.086   0.074   0.0053       TQ1_0 *  1.69   0.082   0.147   0.0002
    MXFP4 *  4.25   0.077   0.083   0.0058       TQ2_0 *  2.06   0.082   0.147   0.0002
    IQ1_S    1.56   0.025   0.054   0.0016       IQ1_M    1.75   0.069   0.062   0.0031

The types' own errors, for comparison: 0.04 at 5 bits, 0.08 to 0.11 at 4 (Q4_0, MXFP4), more below.
So a type of 4 bits or more becomes i8g32, which costs it nothing; one of fewer i4a, which is small beside its own error
and 5 bits a weight; and the ternary ones i8g32, because models that were trained with three values hold them exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from . import _core
from .errors import Unsupported
from .notice import notify

if TYPE_CHECKING:
    from .tensor_entry import TensorEntry

# type -> the format that it becomes unless another one is asked for
_FORMATS = {
    **dict.fromkeys(("q5_0", "q5_1", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4", "tq1_0", "tq2_0"), "i8g32"),
    **dict.fromkeys(("q2_k", "q3_k", "q4_k", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s"), "i4a"),
    **dict.fromkeys(("iq3_xxs", "iq3_s"), "i4a"),
}
# f16 below 2^-14 is off by up to 2^-25, times 15 codes 2^-21: 2^-11 of a block whose largest weight is this large.
_LOSSY_BELOW, _LARGEST = 2.0**-10, 65504.0


def natural_format(dtype: str) -> str:
    """The weight format that keeps a tensor type best; without loss where packing takes the type over."""
    return _FORMATS.get(dtype) or _core.natural_format(dtype)


def is_packable(dtype: str) -> bool:
    """Whether `Weight.pack_rows` reads a type as the file has it."""
    return dtype not in _FORMATS


def is_taken_over(dtype: str) -> bool:
    """Whether packing copies a type's integers without looking at their values."""
    return dtype in ("q4_0", "q4_1", "q8_0")


def announce_conversions(entries: Iterable[TensorEntry], format_of: Callable[[TensorEntry], str]) -> None:
    """Says in one line on standard error what is going to be converted with loss.

    Raises Unsupported if that needs the library gguf and it isn't there, or doesn't know a type.
    """
    pairs = Counter((entry.dtype, format_of(entry)) for entry in entries if entry.dtype in _FORMATS)
    for dtype, fmt in pairs:
        if not _stays_in_codes(dtype, fmt):
            _library_type(dtype)
    lossy = [f"{n} tensors {dtype.upper()} -> {fmt}" for (dtype, fmt), n in sorted(pairs.items()) if fmt != "f32"]
    if lossy:
        notify(f"converting while loading, not without loss: {', '.join(lossy)}")


def unpacked_row_bytes(entry: TensorEntry) -> int:
    """Bytes of a row in memory while it is packed: as in the file, or as float32."""
    return max(entry.row_bytes, 4 * entry.shape[-1]) if entry.dtype in _FORMATS else entry.row_bytes


def packable(rows: np.ndarray, dtype: str, fmt: str) -> tuple[np.ndarray, str]:
    """Rows of a file (uint8 [n, row bytes]) as rows of a type that `Weight.pack_rows` reads, and that type.

    fmt: the format that they will be packed into. Raises Unsupported as `announce_conversions` does.
    """
    if dtype not in _FORMATS:
        return rows, dtype
    blocks = _q4_1_of_q4_k(rows) if _stays_in_codes(dtype, fmt) else None
    if blocks is not None:
        return blocks, "q4_1"
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # packing reports what is not finite
        values = dequantize(rows, _library_type(dtype))
    return np.ascontiguousarray(values, np.float32).view(np.uint8), "f32"


def _stays_in_codes(dtype: str, fmt: str) -> bool:
    return (dtype, fmt) == ("q4_k", "i4a")


def _library_type(dtype: str) -> object:
    """The library's name for a type."""
    try:
        from gguf import GGMLQuantizationType
    except ImportError:
        expected = f"the library gguf, to read {dtype.upper()}: pip install 'jiffy[gguf]'"
        raise Unsupported("weights", expected=expected, found="no such library") from None
    if dtype.upper() not in GGMLQuantizationType.__members__:
        expected = f"a library gguf that knows {dtype.upper()}: pip install --upgrade gguf"
        raise Unsupported("weights", expected=expected, found="an older one")
    return GGMLQuantizationType[dtype.upper()]


def _q4_1_of_q4_k(rows: np.ndarray) -> np.ndarray | None:
    """Each block of 256 as eight blocks of Q4_1; None if f16 would lose digits of a block's scales and offsets.

    A block (ggml-common.h): f16 d, f16 dmin, 12 bytes with 6 bits of scale and of minimum for each 32 weights, 128
    bytes of nibbles; weight = d * scale * nibble - dmin * minimum.
    """
    block = rows.reshape(-1, 144)
    d, dmin = block[:, :4].copy().view(np.float16).astype(np.float32).T[:, :, None]
    low, middle, high = block[:, 4:16].reshape(-1, 3, 4).swapaxes(0, 1)
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 2) & 48)], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 2) & 48)], axis=1)
    with np.errstate(all="ignore"):
        headers = np.stack([d * scales, -dmin * minima], axis=2)  # [n blocks, 8, 2]
        sizes = np.abs(headers * np.float32([15, 1])).max(axis=(1, 2))
    if ((sizes > 0) & (sizes < _LOSSY_BELOW)).any() or (np.isfinite(sizes) & (sizes > _LARGEST)).any():
        return None
    codes = block[:, 16:].reshape(-1, 4, 2, 16)  # a low nibble belongs to an even group, a high one to the next
    even = (codes[:, :, 0] & 15) | (codes[:, :, 1] << 4)
    odd = (codes[:, :, 0] >> 4) | (codes[:, :, 1] & 240)
    out = np.empty((len(block), 8, 20), np.uint8)
    out[:, :, :4] = headers.astype(np.float16).view(np.uint8)
    out[:, :, 4:] = np.stack([even, odd], axis=2).reshape(-1, 8, 16)
    return out.reshape(len(rows), -1)
