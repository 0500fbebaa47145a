"""How likely a text is to a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import ParameterError, shown


@dataclass(frozen=True, eq=False)
class Score:
    """Natural log probabilities of a text's tokens.

    token_ids: all of them. logprobs: float32 [n_tokens - 1], of each token after the first given those before it.
    The sums are taken in float64.
    """

    token_ids: list[int]
    logprobs: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Of the text, the first one included, which has no probability."""
        return len(self.token_ids)

    @cached_property
    def total_logprob(self) -> float:
        """The log probability of all tokens after the first."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def mean_nll(self) -> float:
        """The mean negative log likelihood of a token, in nats."""
        return -self.total_logprob / len(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp(mean_nll); infinite where float64 ends."""
        with np.errstate(over="ignore"):
            return float(np.exp(np.float64(self.mean_nll)))


def checked_stride(stride: object, context: int) -> int | None:
    """Raises ParameterError for what is neither None nor an integer below the context."""
    if stride is None:
        return None
    if isinstance(stride, bool) or not isinstance(stride, int) or not 1 <= stride < context:
        raise ParameterError("stride", expected=f"None or an integer from 1 to {context - 1}", found=shown(stride))
    return stride


def strided(score: Callable[[list[int]], np.ndarray], ids: list[int], context: int, stride: int) -> np.ndarray:
    """float32 [n_tokens - 1], in windows of at most `context` tokens that begin `stride` tokens apart.

    score: token ids to their log probabilities, for at most `context` ids. Each token counts in the first window that
    holds it, so that all but the first window's see at least `context - stride` tokens before them.
    """
    parts, n_covered = [score(ids[:context])], min(context, len(ids))
    for start in range(stride, len(ids) - context + stride, stride):
        window = ids[start : start + context]
        n_new = start + len(window) - n_covered
        parts.append(score(window)[-n_new:])
        n_covered += n_new
    return np.concatenate(parts)
