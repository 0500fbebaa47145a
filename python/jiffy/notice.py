"""What jiffy says by itself: one line on standard error."""

from __future__ import annotations

import sys


def notify(text: str) -> None:
    """Prints "jiffy: {text}"; without a standard error, nothing."""
    if sys.stderr is not None:  # where print would turn to stdout
        print(f"jiffy: {text}".encode(errors="replace").decode(), file=sys.stderr, flush=True)
