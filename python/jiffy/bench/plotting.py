"""matplotlib, which only pictures need."""

from __future__ import annotations

from types import ModuleType

from ..errors import Unsupported


def pyplot() -> ModuleType:
    """matplotlib.pyplot, drawing into files. Raises Unsupported where it isn't installed."""
    try:
        import matplotlib
    except ImportError:
        raise Unsupported("plot", expected="matplotlib: pip install 'jiffy[plot]'", found="none") from None
    matplotlib.use("agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
