#!/usr/bin/env python3
"""jiffy beside other engines, on the same shapes and in the same minutes: peers.py MODEL --peers FOLDER

Installs nothing: it is given Pythons that have the peers, and the models that those read. FOLDER is laid out like this,
where NAME is that of the model's folder; what is not there is left out.

    venv-llamacpp/bin/python    has llama-cpp-python    NAME-Q4_0.gguf, NAME-Q8_0.gguf (a model that is a .gguf: itself)
    venv-ov/bin/python          has openvino-genai      ov/NAME-int4/; of an encoder ov/NAME-int8/, ov/NAME-fp32/
    venv-ort/bin/python         has onnxruntime         of an encoder ort/NAME/model_int8.onnx, ort/NAME/model.onnx
    venv-ct2/bin/python         has ctranslate2         of an encoder or an encoder-decoder ct2/NAME-int8/

or name each by hand: --peer NAME DRIVER PYTHON MODEL, where DRIVER is that of a benchmarks/drivers/run_DRIVER.py, or a
script that speaks as benchmarks/drivers/suite.py does.

A round: every contestant loads in a process of its own; then, row by row, all take turns, and whoever is not measured
is stopped. Read bandwidth and int8 peak are probed between any two runs. In the first round jiffy shows that its
results are right before anything is timed. A peer that fails is reported, and the others go on. The results so far are
saved behind every round: results.json (all that was measured), results.csv, results.md and results.png in the folder
of --out. Ctrl-C ends it and keeps them.

The model's config.json says of which kind it is, and that what the rows are.
    language models     prefill of 128, 512 and 2048 tokens; decode of 128 tokens behind a short prompt, and at 2048
                        tokens of context; 8 and 32 sequences of 32 tokens each
    encoders            sentences/s of 32 and 128 tokens, one alone and 32 at once; and a batch of 32 with 5 to 200
                        tokens, given to all as it comes, not sorted or split: peers fill it up to its longest. What is
                        computed is the last hidden row of every token.
    encoder-decoders    tokens/s of translations of 32 tokens, sources of 25; one alone and 16 at once, greedy and with
                        4 beams
Load seconds and peak memory come with them. jiffy's cache starts empty: its first load packs the model, the later ones
read what that left.

Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jiffy
from comparison import chart, results
from comparison.kinds import ENCODER, LANGUAGE, LANGUAGE_FILE, TRANSLATION, Kind, kind_of
from comparison.plan import Contestant, Row, chosen_rows, jiffy_contestant, peer_contestant, peers_in
from comparison.report import Report
from comparison.rounds import Comparison, Record, Settings
from jiffy import _core
from jiffy.bench.plotting import pyplot
from jiffy.hub import resolve_model

_KINDS = {
    "a language model": LANGUAGE,
    "a .gguf (file: as it is)": LANGUAGE_FILE,
    "an encoder": ENCODER,
    "an encoder-decoder": TRANSLATION,
}


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # drivers that are stopped would outlive this process
    parser = _parser()
    given = parser.parse_args()
    try:
        pyplot()
        model = Path(resolve_model(given.model))
        kind = kind_of(model)
        rows = chosen_rows(kind, given.rows)
        contestants = _contestants(given, kind, model)
    except (ValueError, jiffy.Error) as error:
        parser.error(str(error))
    given.out.mkdir(parents=True, exist_ok=True)
    _warn_of_load()
    with _cache_of_its_own(given.out) as cache:
        environment = {"XDG_CACHE_HOME": str(cache)}
        timeout, probe_bytes = given.timeout, given.probe_megabytes << 20
        settings = Settings(given.rounds, given.threads, given.out, timeout, probe_bytes, environment)
        comparison = Comparison(rows, contestants, settings)
        report = partial(_report, comparison.record, kind, rows, contestants, model)
        complete = _measure(comparison, lambda: _save(report(), given.out))
    report().print()
    print(f"saved in {given.out}/results.json, .csv, .md, .png")
    if not complete:
        return 130
    return 1 if any(c.is_jiffy and c.name in comparison.record.errors for c in contestants) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", help="a folder with safetensors, a .gguf file or a name; smollm2-135m if not given"
    )
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="environments and models of peers, as above")
    parser.add_argument(
        "--peer", nargs=4, action="append", default=[], metavar=("NAME", "DRIVER", "PYTHON", "MODEL"), help="one peer"
    )
    parser.add_argument(
        "--jiffy",
        nargs="+",
        metavar="WEIGHTS[/HEAD][:ROWS]",
        help="weight formats; " + ", ".join(f"{' '.join(kind.variants)} of {what}" for what, kind in _KINDS.items()),
    )
    parser.add_argument(
        "--rows", nargs="+", default=[], help="only rows whose names begin so: prefill-512 decode batch ..."
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=_core.cpu_info().default_threads, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("peers"), metavar="FOLDER", help="for results; default: %(default)s"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="for one answer; default: %(default)s"
    )
    parser.add_argument("--probe-megabytes", type=int, default=1024, help="read by each probe; default: %(default)s")
    return parser


def _contestants(given: argparse.Namespace, kind: Kind, model: Path) -> list[Contestant]:
    found = [jiffy_contestant(kind, variant, str(model), given.threads) for variant in given.jiffy or kind.variants]
    found += peers_in(kind, given.peers, model, given.threads) if given.peers else []
    found += [peer_contestant(kind, *peer, given.threads) for peer in given.peer]
    names = [c.name for c in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two contestants have the same name: {', '.join(names)}")
    return found


def _warn_of_load() -> None:
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"peers: the machine is busy (load average {load:.1f}): figures will be lower", file=sys.stderr)


@contextmanager
def _cache_of_its_own(folder: Path) -> Iterator[Path]:
    cache = Path(tempfile.mkdtemp(prefix="cache-", dir=folder)).resolve()
    try:
        yield cache
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def _measure(comparison: Comparison, save: Callable[[], None]) -> bool:
    """Whether that was all; saves behind every round."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=comparison.steps())
        try:
            for _ in comparison.run(lambda what: bar.update(task, description=what, advance=1)):
                save()
        except KeyboardInterrupt:
            save()
            return False
    return True


def _save(report: Report, folder: Path) -> None:
    report.save(folder)
    if report.figures:
        chart.draw(report, folder / "results.png")


def _report(record: Record, kind: Kind, rows: tuple[Row, ...], contestants: list[Contestant], model: Path) -> Report:
    versions = {name: about[0]["version"] for name, about in record.about.items()}
    cpu = _core.cpu_info()
    head = {
        "model": model.name.removesuffix(".gguf"),
        "machine": f"{cpu.name}, {cpu.usable_cpus} CPUs, {platform.system()} {platform.release()}",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", *sys.argv]),
        "versions": "; ".join(f"{name}: {version}" for name, version in versions.items()),
    }
    figures = results.figures(record, rows, contestants)
    return Report(head, kind.unit, contestants, figures, list(results.loads(record, contestants)), record)


if __name__ == "__main__":
    sys.exit(main())
