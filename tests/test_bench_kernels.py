"""`jiffy bench kernels`: no line of kernels.h without a case, no figure without a right result."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest

import jiffy
from jiffy import _core
from jiffy.bench import kernels
from test_cli import jiffy as command

POOL = _core.ThreadPool(2)


def test_every_line_of_kernels_h_has_a_case():
    assert {name.split()[0] for name in kernels.CASES} | set(kernels.LIMITS) == set(_core.kernel_names())


@pytest.mark.parametrize(("kernel", "fmt"), [(k, f) for k, case in kernels.CASES.items() for f in case.formats])
def test_every_case_is_right_on_every_isa(kernel: str, fmt: str):
    prepared = kernels.CASES[kernel].prepare(fmt, 0)(3)
    for isa in jiffy.isas():
        kernels.check(prepared, POOL, isa, kernel)


@pytest.mark.parametrize("kernel", kernels.CASES)
def test_figures_are_shares_of_the_limits(monkeypatch, kernel: str):
    monkeypatch.setattr(kernels, "_PASS_SECONDS", 0.01)
    monkeypatch.setattr(kernels, "_LEAST_SECONDS", 0.001)
    selection = kernels.Selection([kernel], kernels.CASES[kernel].chosen([])[:1], [], [2], 1, 1 << 20)
    (figure,) = kernels.measure(selection)
    assert (figure.kernel, figure.rows, figure.isa) == (kernel, 2, jiffy.isas()[-1])
    assert 0 < figure.seconds < 1 and figure.n_bytes > 0 and 0 < figure.bandwidth_share < 100
    if kernel in ("matmul", "attention"):
        assert figure.operations > 0 and figure.peak_share > 0
    assert len(selection) == 1


def test_distinct_memory_adds_up_to_what_is_asked_for():
    for kernel, fmt in [("matmul", "i4"), ("attention", "int8")]:
        prepared = kernels.CASES[kernel].prepare(fmt, 10 << 20)(1)
        assert (len(prepared.work) - 1) * prepared.n_bytes < 10 << 20 <= len(prepared.work) * prepared.n_bytes


def test_a_wrong_result_is_never_timed(monkeypatch):
    numbers = count()
    right = kernels.CASES["add"].prepare

    def wrong(fmt: str, n_bytes: int):
        prepared = right(fmt, n_bytes)(1)
        return lambda rows: kernels.Prepared(prepared.work, lambda: [np.array([next(numbers)])], 1)

    monkeypatch.setitem(kernels.CASES, "add", kernels.Case(("f32",), wrong))
    monkeypatch.setattr(kernels, "_seconds", None)
    with pytest.raises(jiffy.Error, match=r"add \(f32\) on .*: expected the numbers of another instruction set"):
        list(kernels.measure(kernels.Selection(["add"], [], [], [1], 1, 1 << 20)))


def test_the_command_prints_a_table_or_json():
    options = ["bench", "kernels", "--kernel", "add", "--kernel", "matmul", "--format", "i4", "--format", "f32"]
    options += ["--rows", "1", "--rows", "3", "--isa", "scalar", "--threads", "1", "--megabytes", "1"]
    figures = json.loads(command(*options, "--json").stdout)
    assert [(f["kernel"], f["format"], f["rows"]) for f in figures] == [
        (kernel, fmt, rows) for kernel, fmt in [("matmul", "f32"), ("matmul", "i4"), ("add", "f32")] for rows in (1, 3)
    ]
    assert all(f["isa"] == "scalar" and f["seconds"] > 0 and f["bandwidth_share"] > 0 for f in figures)
    assert "matmul" in command(*options).stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kernel", "rms"], "kernel: expected one of rms_norm"),
        (["--format", "i5"], "format: expected one of f32"),
        (["--kernel", "add", "--format", "i4"], "format: expected one that a chosen kernel has"),
        (["--isa", "mmx"], "isa: expected one of scalar"),
        (["--rows", "0"], "rows: expected an integer from 1"),
        (["--threads", "0"], "threads: expected an integer from 1"),
    ],
)
def test_bad_options_are_named(options: list[str], message: str):
    result = command("bench", "kernels", *options)
    assert result.returncode == 1
    assert message in result.stderr
