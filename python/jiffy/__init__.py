"""jiffy runs transformer language models in a jiffy, on the CPU that you have.

import jiffy
model = jiffy.load()
print(model.generate("The capital of France is", max_tokens=8).text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ContextOverflow, Error, ForkError, FormatError, OutOfMemory, ParameterError, Unsupported

if TYPE_CHECKING:
    from . import ops, tasks
    from .completion import Completion, TokenLogprob
    from .encoder import Encoder
    from .llm import Model, load, load_encoder, pack
    from .requests import Stream
    from .sampling import SamplingParams
    from .score import Score
    from .seq2seq import Seq2Seq
    from .static_vectors import StaticVectors

__version__ = "0.1.0"
__all__ = [
    "Completion", "ContextOverflow", "Encoder", "Error", "ForkError", "FormatError", "Model", "OutOfMemory",
    "ParameterError", "SamplingParams", "Score", "Seq2Seq", "StaticVectors", "Stream", "TokenLogprob", "Unsupported",
    "formats", "isas", "load", "load_encoder", "ops", "pack", "tasks",
]  # fmt: skip

_LAZY = {
    "Completion": "completion",
    "Encoder": "encoder",
    "Model": "llm",
    "SamplingParams": "sampling",
    "Score": "score",
    "Seq2Seq": "seq2seq",
    "StaticVectors": "static_vectors",
    "Stream": "requests",
    "TokenLogprob": "completion",
    "load": "llm",
    "load_encoder": "llm",
    "pack": "llm",
}


def __getattr__(name: str) -> object:
    """Imports what needs numpy or the tokenizer on first use: `import jiffy` alone takes milliseconds."""
    from importlib import import_module

    if name in ("ops", "tasks"):
        return import_module(f".{name}", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module 'jiffy' has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def isas() -> list[str]:
    """The instruction sets that run on this CPU, slowest first."""
    from . import _core

    return _core.isas()


def formats() -> list[str]:
    """The weight formats that `load` packs."""
    from . import _core

    return _core.format_names()
