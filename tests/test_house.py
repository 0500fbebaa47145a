"""The rules of the house that a compiler doesn't check: includes go one way, files stay short."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "csrc"
LAYERS = ["base", "quant", "kernels", "ops", "program", "runtime", "bindings"]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SOURCES = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cc")])


def layer(path: Path) -> int:
    return LAYERS.index(path.relative_to(CSRC).parts[0])


def test_includes_go_one_way():
    wrong = []
    for source in SOURCES:
        for name in INCLUDE.findall(source.read_text()):
            assert (CSRC / name).is_file(), f"{source}: {name} is not relative to csrc/"
            if layer(CSRC / name) > layer(source):
                wrong.append(f"{source.relative_to(CSRC)} includes {name}")
    assert len(SOURCES) > 40
    assert not wrong


def test_kernel_files_keep_the_standard_library_out():
    """A container's inline functions, compiled for AVX-512, could be the copy that the linker keeps for all."""
    allowed = {"cstdint", "cstring", "cmath", "immintrin.h", "string", "vector", "string_view"}
    for source in (CSRC / "kernels/cpu").rglob("*"):
        if source.suffix not in {".h", ".cc"} or source.name.startswith("select"):
            continue
        text = source.read_text()
        system = set(re.findall(r"^#include <([^>]+)>", text, re.MULTILINE))
        assert system <= allowed, f"{source.name} includes {system - allowed}"
        used = set(re.findall(r"std::\w+", text)) - {"std::memcpy", "std::nearbyint"}
        assert not used, f"{source.name} uses {used}"


def test_files_and_functions_stay_readable():
    long = [
        f"{p.relative_to(ROOT)}"
        for p in [*SOURCES, *(ROOT / "python").rglob("*.py")]
        if len(p.read_text().splitlines()) > 400
    ]
    assert not long


def test_nothing_calls_abort():
    for source in SOURCES:
        assert not re.search(r"\b(abort|terminate|exit)\s*\(", source.read_text()), source
