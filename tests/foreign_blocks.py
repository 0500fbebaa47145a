"""Blocks of every GGUF type that `jiffy.foreign_types` converts, whether the gguf library can quantise to it or not."""

from __future__ import annotations

import zlib

import gguf
import numpy as np
from gguf.quants import dequantize

# Where a block keeps its f16 factors. IQ1_M spreads the bits of one over its scales.
_FACTORS = {
    **dict.fromkeys(("Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "IQ1_M": ()},
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), (0,)),
}


def quantize(values: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    """As `gguf.quants.quantize` where that exists; else random codes with factors that give `values`' size, row by row
    the same for the same row."""
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:
        return np.stack([_random_row(row, kind) for row in values])


def _random_row(row: np.ndarray, kind: gguf.GGMLQuantizationType) -> np.ndarray:
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(zlib.crc32(row.tobytes()))
    blocks = rng.integers(0, 256, (row.size // n_values, n_bytes), dtype=np.uint8)
    _set_factors(blocks, kind, 1.0)
    size = np.sqrt(np.mean(dequantize(blocks.reshape(-1), kind).astype(np.float64) ** 2))
    _set_factors(blocks, kind, np.sqrt(np.mean(row**2)) / size)
    return blocks.reshape(-1)


def _set_factors(blocks: np.ndarray, kind: gguf.GGMLQuantizationType, factor: float) -> None:
    bits = np.float16(factor).view(np.uint16)
    for at in _FACTORS[kind.name]:
        blocks[:, at : at + 2] = bits.reshape(1).view(np.uint8)
    if kind.name == "IQ1_M":
        scales = blocks[:, 48:56].copy().view(np.uint16)
        nibbles = (bits >> np.arange(0, 16, 4, dtype=np.uint16) & 15) << 12
        blocks[:, 48:56] = ((scales & 0x0FFF) | nibbles.astype(np.uint16)).view(np.uint8)
