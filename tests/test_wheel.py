"""The wheel: built, repaired to need nothing of this machine, installed elsewhere, and run on older CPUs (by qemu)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import jiffy
import tiny

ROOT = Path(__file__).parent.parent

_PROGRAM = """
import json, sys
import jiffy
model = jiffy.load(sys.argv[1], n_threads=2)
token_ids = model.generate("hello", max_tokens=12, ignore_eos=True).token_ids
print(json.dumps({"file": jiffy.__file__, "isas": jiffy.isas(), "isa": model.info()["isa"], "token_ids": token_ids}))
"""


def _run(*command: object) -> str:
    """Standard output; jiffy comes from nowhere but the program's own Python, and tools from this one's folder."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    env.pop("OPENBLAS_CORETYPE", None)  # it would have numpy use instructions that an older CPU lacks
    result = subprocess.run([*map(str, command)], env=env, capture_output=True, text=True, cwd=ROOT, timeout=1200)
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--wheel-dir", folder / "built")
    (built,) = (folder / "built").glob("*.whl")
    _run(sys.executable, "-m", "auditwheel", "repair", built, "--wheel-dir", folder / "repaired")
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """A Python that has the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    _run(folder / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", wheel)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny.write_gguf_llama(path)
    return path


@pytest.fixture(scope="module")
def qemu() -> str:
    program = shutil.which("qemu-x86_64")
    if program is None:
        reason = "qemu-x86_64 is needed (Debian: apt-get install qemu-user)"
        pytest.fail(reason) if os.environ.get("JIFFY_REQUIRE_QEMU") else pytest.skip(reason)
    return program


def test_wheel_is_for_many_linuxes(wheel):
    assert re.search(r"-manylinux_2_\d+_x86_64(\.\w+)*\.whl$|\.manylinux_2_\d+_x86_64\.whl$", wheel.name), wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert {"jiffy/py.typed", "jiffy/_core.pyi", "jiffy/models/llama.py"} <= set(names)
    assert [name for name in names if re.fullmatch(r"jiffy/_core\.\S+\.so", name)]


def test_kernel_objects_have_no_weak_symbols(wheel):
    """Of the build that the wheel is made of: the linker has no choice between instruction sets."""
    tags = "-".join(wheel.name.split("-")[2:4])
    objects = list((ROOT / "build").glob(f"{tags}-*/CMakeFiles/jiffy_kernels_*.dir/**/*.o"))
    assert len(objects) >= 3 * 7, objects
    for path in objects:
        weak = [line for line in _run("nm", "--demangle", path).splitlines() if re.search(r"^\S*\s+[VvWwu] ", line)]
        assert not weak, f"{path.name}: {weak[:5]}"


def test_wheel_generates(python, model_path):
    said = json.loads(_run(python, "-c", _PROGRAM, model_path))
    assert Path(said["file"]).is_relative_to(python.parent.parent)
    expected = jiffy.load(model_path).generate("hello", max_tokens=12, ignore_eos=True).token_ids
    assert (said["isas"], said["token_ids"]) == (jiffy.isas(), expected)


# Nehalem is the oldest that numpy runs on (x86-64-v2: SSE4.2, no AVX).
@pytest.mark.parametrize(("cpu", "isas"), [("Nehalem", ["scalar"]), ("Haswell", ["scalar", "avx2"])])
def test_older_cpus_give_the_same_tokens(qemu, python, model_path, cpu, isas):
    said = json.loads(_run(qemu, "-cpu", cpu, python, "-c", _PROGRAM, model_path))
    expected = jiffy.load(model_path).generate("hello", max_tokens=12, ignore_eos=True).token_ids
    assert (said["isas"], said["isa"], said["token_ids"]) == (isas, isas[-1], expected)
