"""What is compared: the rows, and who takes part in them."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

DRIVERS = Path(__file__).parent.parent / "drivers"


@dataclass(frozen=True)
class Row:
    """A run (drivers/suite.py says what the numbers mean) and the figures that are read off it, by part of the run."""

    name: str
    figures: dict[str, str]
    batch: int
    prompt: int
    new: int
    repeats: int
    warmups: int = 0

    def request(self) -> dict[str, int]:
        return {k: v for k, v in asdict(self).items() if k not in ("name", "figures")}

    def counted(self) -> dict[str, int]:
        """A short run whose decode steps see as many positions as those of this row on average."""
        return {"batch": self.batch, "prompt": self.prompt + self.new // 2, "new": min(self.new, 3), "repeats": 1}


ROWS = (
    Row("prefill-128", {"prefill": "prefill 128"}, batch=1, prompt=128, new=1, repeats=5, warmups=1),
    Row("prefill-512", {"prefill": "prefill 512"}, batch=1, prompt=512, new=1, repeats=3, warmups=1),
    Row("decode", {"decode": "decode"}, batch=1, prompt=4, new=129, repeats=2),
    Row("context-2048", {"prefill": "prefill 2048", "decode": "decode at 2048"}, 1, prompt=2048, new=65, repeats=2),
    Row("batch-8", {"decode": "batch 8"}, batch=8, prompt=32, new=33, repeats=2),
    Row("batch-32", {"decode": "batch 32"}, batch=32, prompt=32, new=33, repeats=2),
)


@dataclass(frozen=True)
class Contestant:
    """command: starts its driver. rows: names of the rows that it takes part in."""

    name: str
    command: tuple[str, ...]
    rows: tuple[str, ...]
    is_jiffy: bool = False

    def takes(self, row: Row) -> bool:
        return row.name in self.rows


def chosen_rows(names: list[str]) -> tuple[Row, ...]:
    """Those whose names begin with one of `names`; all without any. Raises ValueError for a name of none."""
    for name in names:
        if not any(row.name.startswith(name) for row in ROWS):
            raise ValueError(f"no row begins with {name}; there are {', '.join(row.name for row in ROWS)}")
    return tuple(row for row in ROWS if not names or row.name.startswith(tuple(names)))


def jiffy_contestant(variant: str, model: str, threads: int) -> Contestant:
    """variant: WEIGHTS[/HEAD][:ROWS], as in "i4", "i4/i8", "i4g128:prefill"; "file" for weights as they are."""
    formats, _, rows = variant.partition(":")
    weights, _, head = formats.partition("/")
    command = [sys.executable, str(DRIVERS / "run_jiffy.py"), model, "--threads", str(threads)]
    command += ["--weights", weights] if weights != "file" else []
    command += ["--head", head] if head else []
    name = f"jiffy {weights if weights != 'file' else 'as in the file'}" + (f", head {head}" if head else "")
    taken = chosen_rows([rows] if rows else [])
    return Contestant(name, tuple(command), tuple(row.name for row in taken), is_jiffy=True)


def peer_contestant(name: str, driver: str, python: str, model: str, threads: int) -> Contestant:
    """driver: "llamacpp", "openvino", or a script that speaks as drivers/suite.py does."""
    known = DRIVERS / f"run_{driver}.py"
    script = known if known.is_file() else Path(driver)
    for path in (script, Path(python), Path(model)):
        if not path.exists():
            raise ValueError(f"{name}: {path} is not there")
    command = (python, str(script), model, "--threads", str(threads))
    return Contestant(name, command, tuple(row.name for row in ROWS))


def peers_in(folder: Path, model: Path, threads: int) -> list[Contestant]:
    """What is laid out in a folder: venv-llamacpp with NAME-Q4_0.gguf and NAME-Q8_0.gguf, venv-ov with ov/NAME-int4,
    where NAME is that of the model's folder. llama.cpp runs a model that is a GGUF file itself."""
    found = []
    llamacpp, openvino = folder / "venv-llamacpp/bin/python", folder / "venv-ov/bin/python"
    if model.suffix == ".gguf":
        files = {"llama.cpp": model}
    else:
        files = {f"llama.cpp {kind}": folder / f"{model.name}-{kind}.gguf" for kind in ("Q4_0", "Q8_0")}
    found += [(name, "llamacpp", llamacpp, path) for name, path in files.items()]
    found.append(("OpenVINO int4", "openvino", openvino, folder / "ov" / f"{model.name}-int4"))
    return [
        peer_contestant(name, driver, str(python), str(path), threads)
        for name, driver, python, path in found
        if python.exists() and path.exists()
    ]
