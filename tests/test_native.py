"""Runs tests/native with sanitizers: address with undefined behaviour, and threads (data races)."""

from __future__ import annotations

import os
import subprocess

import pytest

# Freed memory stays poisoned but little of it is kept back, and a failed allocation must come back as an error. The
# first report of a race ends the run, so that it is the end of what the test prints.
OPTIONS = {
    "ASAN_OPTIONS": "allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


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
def test_native_tests_pass_under_the_sanitizers(sanitized_builds, sanitizers):
    program = sanitized_builds[sanitizers].program()
    command = [*(_fixed_addresses() if sanitizers == "thread" else []), str(program)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | OPTIONS, timeout=1200)
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-8000:]}"
    passed = result.stdout.strip().splitlines()[-1]
    assert passed.endswith("0 failed") and int(passed.split()[0]) > 40, passed
