"""Builds of the native tests with sanitizers, made beside the other tests, which leave a core idle most of the time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


class SanitizedBuild:
    """A build that gives way to everything else while it runs."""

    def __init__(self, sanitizers: str, n_jobs: int) -> None:
        self._folder = ROOT / "build" / sanitizers.replace(",", "_")
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DJIFFY_BINDINGS=OFF", "-DJIFFY_NATIVE_TESTS=ON"]
        configure = [
            "-S",
            str(ROOT),
            "-B",
            str(self._folder),
            "-G",
            "Ninja",
            *options,
            f"-DJIFFY_SANITIZE={sanitizers}",
        ]
        build = ["--build", str(self._folder), "--target", "jiffy_native_tests", "--parallel", str(n_jobs)]
        commands = " && ".join(shlex.join(["cmake", *arguments]) for arguments in (configure, build))
        with self._log.open("w") as log:
            command = ["nice", "-n", "19", "sh", "-c", commands]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    @property
    def _log(self) -> Path:
        return self._folder / "build.log"

    def program(self) -> Path:
        """The tests, once they are built."""
        assert self._process.wait() == 0, self._log.read_text()[-4000:]
        return self._folder / "jiffy_native_tests"

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()


def builds_of(chosen: list[str]) -> dict[str, SanitizedBuild]:
    """Under way side by side; they share the cores."""
    n_jobs = max(1, len(os.sched_getaffinity(0)) // max(1, len(chosen)))
    return {sanitizers: SanitizedBuild(sanitizers, n_jobs) for sanitizers in chosen}
