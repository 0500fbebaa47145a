"""Builds tests/native with sanitizers, and runs them: address with undefined behaviour, and threads (data races)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Freed memory stays poisoned but little of it is kept back, and a failed allocation must come back as an error. The
# first report of a race ends the run, so that it is the end of what the test prints.
OPTIONS = {
    "ASAN_OPTIONS": "allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


def _build(sanitizers: str) -> Path:
    build = ROOT / "build" / sanitizers.replace(",", "_")
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DJIFFY_BINDINGS=OFF", "-DJIFFY_NATIVE_TESTS=ON"]
    configure = ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options, f"-DJIFFY_SANITIZE={sanitizers}"]
    subprocess.run(configure, check=True, capture_output=True)
    built = subprocess.run(
        ["cmake", "--build", str(build), "--target", "jiffy_native_tests"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout[-4000:]
    return build / "jiffy_native_tests"


def _fixed_addresses() -> list[str]:
    """The thread sanitizer of GCC 12 needs its addresses free, which kernels that randomise 32 bits don't promise. Not
    every container may turn that off."""
    prefix = ["setarch", "-R"]
    try:
        works = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except OSError:
        works = False
    return prefix if works else []


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_native_tests_pass_under_the_sanitizers(sanitizers):
    program = _build(sanitizers)
    command = [*(_fixed_addresses() if sanitizers == "thread" else []), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | OPTIONS, timeout=1200)
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-8000:]}"
    passed = result.stdout.strip().splitlines()[-1]
    assert passed.endswith("0 failed") and int(passed.split()[0]) > 40, passed
