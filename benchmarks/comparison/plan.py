"""What is compared: the rows, and who takes part in them."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .kinds import Kind

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
    shortest: int = 0
    beams: int = 1

    def request(self) -> dict[str, int]:
        return {k: v for k, v in asdict(self).items() if k not in ("name", "figures")}

    def counted(self) -> dict[str, int]:
        """A run whose work is counted: once; and where decoding is timed a short one, whose steps see as many positions
        as those of this row on average."""
        once = {**self.request(), "repeats": 1, "warmups": 0}
        if "decode" not in self.figures:
            return once
        return once | {"prompt": self.prompt + self.new // 2, "new": min(self.new, 3)}


@dataclass(frozen=True)
class Contestant:
    """command: starts its driver. rows: names of the rows that it takes part in."""

    name: str
    command: tuple[str, ...]
    rows: tuple[str, ...]
    is_jiffy: bool = False

    def takes(self, row: Row) -> bool:
        return row.name in self.rows


def chosen_rows(kind: Kind, names: list[str]) -> tuple[Row, ...]:
    """Those whose names begin with one of `names`; all without any. Raises ValueError for a name of none."""
    for name in names:
        if not any(row.name.startswith(name) for row in kind.rows):
            raise ValueError(f"no row begins with {name}; there are {', '.join(row.name for row in kind.rows)}")
    return tuple(row for row in kind.rows if not names or row.name.startswith(tuple(names)))


def jiffy_contestant(kind: Kind, variant: str, model: str, threads: int) -> Contestant:
    """variant: WEIGHTS[/HEAD][:ROWS], as in "i4", "i4/i8", "i4g128:prefill"; "file" for weights as they are."""
    formats, _, rows = variant.partition(":")
    weights, _, head = formats.partition("/")
    command = [sys.executable, str(DRIVERS / f"run_{kind.driver}.py"), model, "--threads", str(threads)]
    command += ["--weights", weights] if weights != "file" else []
    command += ["--head", head] if head else []
    name = f"jiffy {weights if weights != 'file' else 'as in the file'}" + (f", head {head}" if head else "")
    taken = chosen_rows(kind, [rows] if rows else [])
    return Contestant(name, tuple(command), tuple(row.name for row in taken), is_jiffy=True)


def peer_contestant(
    kind: Kind, name: str, driver: str, python: str, model: str, threads: int, options: tuple[str, ...] = ()
) -> Contestant:
    """driver: NAME of drivers/run_NAME.py, or a script that speaks as drivers/suite.py does."""
    known = DRIVERS / f"run_{driver}.py"
    script = known if known.is_file() else Path(driver)
    for path in (script, Path(python), Path(model)):
        if not path.exists():
            raise ValueError(f"{name}: {path} is not there")
    command = (python, str(script), model, "--threads", str(threads), *options)
    return Contestant(name, command, tuple(row.name for row in kind.rows))


def peers_in(kind: Kind, folder: Path, model: Path, threads: int) -> list[Contestant]:
    """Those of a kind's peers whose environment and model are laid out in a folder."""
    found = []
    for peer in kind.peers:
        python = folder / peer.environment / "bin/python"
        file = folder / peer.model.format(name=model.name, model=model)
        if python.exists() and file.exists():
            found.append(peer_contestant(kind, peer.name, peer.driver, str(python), str(file), threads, peer.options))
    return found
