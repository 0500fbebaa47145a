"""Rotary position embedding (Su et al. 2021, RoFormer): what angle a position is, and the tables that the kernels read.

Dimensions i and i + head_dim / 2 of a head turn together by position * f_i, where plain rope has
f_i = theta^(-2 i / head_dim). Models that were made for longer contexts scale these frequencies, each kind in a class
below. The formulas are those of transformers' modeling_rope_utils.py (5.23), in double where transformers uses float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class RopeScaling:
    """No scaling, and the base of all kinds. attention_factor multiplies cosines and sines, so q k by its square."""

    attention_factor = 1.0

    def frequencies(self, theta: float, head_dim: int, context: int) -> np.ndarray:
        """Radians a position, float64 [head_dim / 2], for a table of `context` positions."""
        import numpy as np

        return np.float64(theta) ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)

    def reach(self, context_length: int) -> int:
        """How many positions the model serves, where its file says context_length."""
        return context_length


@dataclass(frozen=True)
class LinearScaling(RopeScaling):
    """f_i / factor (Chen et al. 2023, position interpolation)."""

    factor: float

    def frequencies(self, theta: float, head_dim: int, context: int) -> np.ndarray:
        return super().frequencies(theta, head_dim, context) / self.factor


@dataclass(frozen=True)
class DynamicScaling(RopeScaling):
    """NTK-aware scaling that grows with the length: theta * (factor * n / original - factor + 1)^(d / (d - 2)).

    transformers takes the length of each forward pass for n, so what a token's key is depends on how long the sequence
    was when it came, and on how the prompt was cut. Here n is the loaded context, for every sequence and position:
    logits equal those of one forward pass over `context` tokens. No position is scaled in a context up to `original`.
    """

    factor: float
    original: int

    def frequencies(self, theta: float, head_dim: int, context: int) -> np.ndarray:
        stretch = self.factor * max(context, self.original) / self.original - (self.factor - 1)
        return super().frequencies(theta * stretch ** (head_dim / (head_dim - 2)), head_dim, context)

    def reach(self, context_length: int) -> int:
        return max(context_length, int(self.factor * self.original))


@dataclass(frozen=True)
class Llama3Scaling(RopeScaling):
    """Llama 3.1: a dimension that turns fewer than low_freq_factor times within `original` positions is divided by
    factor, one that turns more than high_freq_factor times stays, and between the two the share moves linearly."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original: int

    def frequencies(self, theta: float, head_dim: int, context: int) -> np.ndarray:
        import numpy as np

        plain = super().frequencies(theta, head_dim, context)
        turns = self.original * plain / (2 * math.pi)
        kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return plain * (kept + (1 - kept) / self.factor)


@dataclass(frozen=True)
class YarnScaling(RopeScaling):
    """YaRN (Peng et al. 2023): dimensions are divided by factor from where they turn beta_slow times within `original`
    positions, stay up to where they turn beta_fast times, and change linearly by dimension between.

    truncate: both borders are rounded outwards to whole dimensions.
    """

    factor: float
    original: int
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True

    @staticmethod
    def default_attention_factor(factor: float, mscale: float = 1.0) -> float:
        """The paper's sharper softmax for longer contexts: 0.1 mscale ln(factor) + 1."""
        return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0

    def frequencies(self, theta: float, head_dim: int, context: int) -> np.ndarray:
        import numpy as np

        low, high = (self._dimension(turns, theta, head_dim) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        divided = np.clip((np.arange(head_dim // 2) - low) / (high - low or 0.001), 0, 1)
        return super().frequencies(theta, head_dim, context) * (1 - divided + divided / self.factor)

    def reach(self, context_length: int) -> int:
        return max(context_length, int(self.factor * self.original))

    def _dimension(self, turns: float, theta: float, head_dim: int) -> float:
        """The dimension, as a fraction, that turns so many times within `original` positions."""
        return head_dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))


@dataclass(frozen=True)
class DivisorScaling(RopeScaling):
    """f_i / divisors[i]: llama.cpp's converter stores the result of Llama 3.1's rule so, as rope_freqs.weight."""

    divisors: tuple[float, ...]

    def frequencies(self, theta: float, head_dim: int, context: int) -> np.ndarray:
        import numpy as np

        return super().frequencies(theta, head_dim, context) / np.array(self.divisors)


@dataclass(frozen=True)
class RopeTables:
    """cosines and sines, float32 [context, head_dim / 2], of the angles position * f_i, times the attention factor."""

    cosines: _core.RopeTable
    sines: _core.RopeTable

    @classmethod
    def make(cls, context: int, head_dim: int, theta: float, scaling: RopeScaling) -> RopeTables:
        frequencies = scaling.frequencies(theta, head_dim, context).tolist()
        one_context = isinstance(scaling, DynamicScaling)
        cosines, sines = (
            _core.RopeTable(frequencies, context, factor=scaling.attention_factor, sine=sine, one_context=one_context)
            for sine in (False, True)
        )
        return cls(cosines, sines)
