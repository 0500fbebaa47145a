"""Builds tests/native with the address and undefined-behaviour sanitizers, and runs them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_native_tests_pass_under_the_sanitizers():
    build = ROOT / "build" / "sanitized"
    options = [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DJIFFY_BINDINGS=OFF",
        "-DJIFFY_NATIVE_TESTS=ON",
        "-DJIFFY_SANITIZE=address,undefined",
    ]
    subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", *options], check=True, capture_output=True
    )
    built = subprocess.run(
        ["cmake", "--build", str(build), "--target", "jiffy_native_tests"], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout[-4000:]
    # Freed memory stays poisoned but little of it is kept back, and a failed allocation must come back as an error.
    env = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    result = subprocess.run([str(build / "jiffy_native_tests")], capture_output=True, text=True, env=env, timeout=900)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    passed = result.stdout.strip().splitlines()[-1]
    assert passed.endswith("0 failed") and int(passed.split()[0]) > 40, passed
