"""Every fuzz_*.py, for as many seconds as --fuzz-seconds says, as many at a time as there are CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent.parent
_TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))
_SEED = "-seed=1"


def _run(target: str, folder: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz", target, str(folder), f"-max_total_time={seconds}", _SEED]
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "RUST_BACKTRACE": "0"}
    return subprocess.run(command, env=env, capture_output=True, text=True, errors="replace", timeout=seconds + 60)


@pytest.fixture(scope="session")
def runs(request, tmp_path_factory) -> dict[str, Future]:
    """All targets that this session asks for, side by side."""
    seconds = request.config.getoption("--fuzz-seconds")
    chosen = [item.callspec.params["target"] for item in request.session.items if item.originalname == "test_fuzz"]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        yield {target: pool.submit(_run, target, tmp_path_factory.mktemp(target), seconds) for target in chosen}


@pytest.mark.parametrize("target", _TARGETS)
def test_fuzz(target, runs):
    result = runs[target].result()
    assert result.returncode == 0, f"{result.stdout[-1000:]}\n{result.stderr[-6000:]}"
    done = [line for line in result.stderr.splitlines() if line.startswith("Done ")]
    assert done and int(done[-1].split()[1]) >= 10, result.stderr[-2000:]
