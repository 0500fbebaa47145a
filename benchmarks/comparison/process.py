"""A driver as a process that sleeps whenever another one is measured."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from .plan import Contestant

_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would bind a peer to kernels that are not this machine's


class DriverError(Exception):
    """A driver that failed, ended or took too long: what it said last."""


class Driver:
    """Starts with the constructor; `ask` wakes it for one answer. Leave it by close()."""

    def __init__(self, contestant: Contestant, threads: int, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        unset = _UNSET if contestant.is_jiffy else (*_UNSET, "PYTHONPATH")  # a peer's Python has modules of its own
        env = {k: v for k, v in os.environ.items() if k not in unset} | environment
        env |= {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                contestant.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                start_new_session=True,  # Ctrl-C reaches only the comparison, which then ends its drivers
            )
        self._buffer = b""

    def loaded(self, timeout: float) -> dict[str, Any]:
        """What it says of itself once its model is there; then it sleeps."""
        return self._answer(timeout)

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Raises DriverError; the driver must not be asked again if it ended or took too long."""
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise DriverError(self._last_words("ended")) from None
        return self._answer(timeout)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # of a request that nobody has read
            self._process.stdin.close()

    def _answer(self, timeout: float) -> dict[str, Any]:
        answer = json.loads(self._line(timeout))
        self._signal(signal.SIGSTOP)  # threads that spin while they wait would take time from the next one
        if "error" in answer:
            raise DriverError(answer["error"])
        return answer

    def _line(self, timeout: float) -> bytes:
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    raise DriverError(f"no answer within {timeout:.0f} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise DriverError(self._last_words(f"ended with status {self._process.wait()}"))
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _last_words(self, what: str) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{what}: {lines[-1].strip()}" if lines else what

    def _signal(self, number: int) -> None:
        """To the driver and whatever it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
