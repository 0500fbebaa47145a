"""Types: the stub of the extension says what the extension has, and users' programs check.

mypy's stubtest compares names. What it can't see in compiled functions is compared here, by the signatures that
pybind11 writes as their docstrings.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from jiffy import _core

_STUB = Path(_core.__file__).with_name("_core.pyi")
if not _STUB.exists():  # an extension that is linked into the source tree
    _STUB = Path(__file__).parent.parent / "python/jiffy/_core.pyi"


# pybind11's own: the metaclass of every class, and what enumerations have besides their members. Constructors are
# compared by `test_signatures`.
_ALLOWED = r"jiffy\._core\.[A-Z]\w*(\.__(init|index|int|members)__|\.(name|value))?"

_PROGRAM = """
import jiffy

model = jiffy.load("model.gguf", weights="i4", n_threads=2)
one = model.generate("a", max_tokens=8, temperature=0.5, params=jiffy.SamplingParams(seed=1))
text: str = one.text + one.finish_reason if isinstance(one, jiffy.Completion) else one[0].text
with model.stream("a") as stream:
    pieces: list[str] = list(stream)
sizes: tuple[int, ...] = model.logits([1, 2]).shape
names: list[str] = [*jiffy.isas(), *jiffy.formats()]
try:
    jiffy.load("nowhere.gguf")
except jiffy.FormatError as error:
    print(error.where, error.expected, error.found)
"""


def _mypy(folder: Path, *arguments: str) -> None:
    """Run elsewhere, mypy takes jiffy for an installed package, whose insides are nothing that it reports on."""
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr


def test_stubtest(tmp_path):
    allowed = tmp_path / "allowed.txt"
    allowed.write_text(_ALLOWED)
    _mypy(tmp_path, "mypy.stubtest", "jiffy._core", "--allowlist", str(allowed))


def test_programs_of_users(tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    _mypy(tmp_path, "mypy", "--strict", "program.py")


def test_signatures():
    differing = [
        f"{name}\n  stub: {ast.unparse(written)}\n  _core: {ast.unparse(real)}"
        for name, written, real in _functions()
        if _parameters(written) != _parameters(real) or _kind_of_return(written) != _kind_of_return(real)
    ]
    assert not differing, "\n".join(differing)


def test_every_signature_is_compared():
    names = {name for name, _, _ in _functions()}
    assert {"run_all", "Weight.pair", "Engine.add"} <= names
    for name, value in vars(_core).items():
        if isinstance(value, type) and "(self: " in value.__init__.__doc__ and not hasattr(value, "__members__"):
            assert f"{name}.__init__" in names


def _functions() -> Iterator[tuple[str, ast.FunctionDef, ast.FunctionDef]]:
    """(name, as the stub has it, as the module has it) of all functions and methods."""
    for node in ast.parse(_STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node, _real(getattr(_core, node.name))
        for inner in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and not _is_property(inner):
                yield f"{node.name}.{inner.name}", inner, _real(getattr(getattr(_core, node.name), inner.name))


def _real(function: object) -> ast.FunctionDef:
    return ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body[0]


def _is_property(function: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "property" for one in function.decorator_list)


def _parameters(function: ast.FunctionDef) -> object:
    """Names, kinds and defaults; the types that pybind11 writes are wider than what anybody should give."""
    arguments = function.args
    defaults = [None if one is None else _value(one) for one in (*arguments.defaults, *arguments.kw_defaults)]
    return [one.arg for one in arguments.args], [one.arg for one in arguments.kwonlyargs], defaults


def _value(default: ast.expr) -> object:
    return ast.unparse(default) if isinstance(default, ast.Attribute) else ast.literal_eval(default)


def _kind_of_return(function: ast.FunctionDef) -> str:
    """The outermost name of the type that is returned: "list" of list[TokenEvent]."""
    text = ast.unparse(function.returns)
    return text.partition("[")[0].rpartition(".")[2]
