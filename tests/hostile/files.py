"""All hostile files: every case that opening a model must answer with a `jiffy.Error`."""

from __future__ import annotations

from .case import Case
from .config_files import CONFIGS, ROPES, WINDOWS
from .gguf_files import GGUF_ROPES, GGUFS
from .safetensors_files import INDEXES, SAFETENSORS

__all__ = ["CASES", "Case"]

CASES: list[Case] = [*SAFETENSORS, *INDEXES, *CONFIGS, *ROPES, *WINDOWS, *GGUFS, *GGUF_ROPES]
