"""Architectures, found by config.json's "model_type"."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import Unsupported
from .llama import llama

if TYPE_CHECKING:
    from ..config import Config
    from ..graph import Node, Trace
    from ..weights import Weights

ARCHITECTURES: dict[str, Callable[[Trace, Config, Weights, int], Node]] = {
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
}


def architecture(model_type: str) -> Callable[[Trace, Config, Weights, int], Node]:
    """The function that traces a model of this type. Raises Unsupported."""
    if model_type not in ARCHITECTURES:
        raise Unsupported("model_type", expected="one of " + ", ".join(ARCHITECTURES), found=f'"{model_type}"')
    return ARCHITECTURES[model_type]
