"""The cache of packed files: used, checked, rebuilt, bounded."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jiffy
import tiny
from jiffy import pack_cache

IDS = [1, 7, 300, 5]


@pytest.fixture
def source(tmp_path) -> Path:
    tiny.write_hf_llama(tmp_path / "model", vocab_size=512)
    return tmp_path / "model"


def files(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def test_the_second_load_reads_what_the_first_packed(cache, source, monkeypatch, capfd):
    fresh = jiffy.load(source, weights="i4")
    assert len(files(cache)) == 1
    monkeypatch.setattr(jiffy.prepare, "pack_checkpoint", None)  # there is nothing to pack
    again = jiffy.load(source, weights="i4", kv_dtype="int8", n_threads=1, isa="scalar", context=64)
    assert again.path == fresh.path and again.info()["formats"] == fresh.info()["formats"]
    assert np.array_equal(fresh.logits(IDS), jiffy.load(source, weights="i4").logits(IDS))
    assert capfd.readouterr().err == ""


def test_formats_have_files_of_their_own(cache, source):
    for weights, head in ((None, None), ("i4", None), ("i4", "i8"), ("i8", None)):
        jiffy.load(source, weights=weights, head=head)
    assert len(files(cache)) == 4


def test_off_with_one_argument(cache, source):
    jiffy.load(source, cache=False)
    assert files(cache) == []
    with pytest.raises(jiffy.ParameterError, match="cache: expected True or False"):
        jiffy.load(source, cache="no")


def test_small_models_and_such_as_are_packed_already_are_not_kept(cache, source, tmp_path, monkeypatch):
    tiny.write_gguf_llama(tmp_path / "m.gguf", dtype="q4_0")
    jiffy.load(tmp_path / "m.gguf")
    assert files(cache) == []
    jiffy.load(tmp_path / "m.gguf", weights="i8")
    assert len(files(cache)) == 1
    monkeypatch.setattr(pack_cache, "LEAST_BYTES", 64 << 20)
    jiffy.load(source)
    assert len(files(cache)) == 1


@pytest.mark.parametrize("change", ["weights", "time", "template", "code"])
def test_a_stale_file_is_made_anew(cache, source, capfd, monkeypatch, change):
    jiffy.load(source)
    before = files(cache)
    weights = source / "model.safetensors"
    if change == "weights":
        tiny.write_hf_llama(source, vocab_size=512, seed=1)
    elif change == "time":
        os.utime(weights, ns=(0, 12345))
    elif change == "template":
        (source / "chat_template.jinja").write_text("x")
    else:
        monkeypatch.setattr(pack_cache, "__version__", "0.0.0")
    model = jiffy.load(source)
    assert f"jiffy: packing {source} anew: its files, or jiffy, have changed since" in capfd.readouterr().err
    assert files(cache) == before
    assert np.array_equal(model.logits(IDS), jiffy.load(source, cache=False).logits(IDS))
    jiffy.load(source)
    assert capfd.readouterr().err == ""


def test_a_change_that_keeps_size_and_time_is_seen_in_small_files(cache, source):
    jiffy.load(source)
    path = source / "tokenizer_config.json"
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace("<|eos|>", "<|pad|>"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert jiffy.load(source).tokenizer.eos_ids == jiffy.load(source, cache=False).tokenizer.eos_ids


@pytest.mark.parametrize("damage", ["weights", "head", "header", "cut", "empty", "layout"])
def test_a_damaged_file_is_made_anew(cache, source, capfd, damage):
    expected = jiffy.load(source).logits(IDS)
    (path,) = files(cache)
    raw = bytearray(path.read_bytes())
    program = 8 + int.from_bytes(raw[:8], "little")
    at = {"weights": -4090, "head": program + 100, "header": 40, "layout": program + 8}.get(damage)
    if at is not None:
        raw[at] ^= 64
    path.write_bytes({"cut": raw[:-4096], "empty": b""}.get(damage, raw))
    assert np.array_equal(jiffy.load(source).logits(IDS), expected)
    assert f"jiffy: packing {source} anew: {path.name}" in capfd.readouterr().err
    assert np.array_equal(jiffy.load(source).logits(IDS), expected)
    assert capfd.readouterr().err == ""


def test_a_rope_of_one_context_is_packed_for_each(cache, tmp_path):
    tiny.write_hf_llama(tmp_path / "m", vocab_size=512, rope_scaling={"rope_type": "dynamic", "factor": 4.0})
    for context in (4096, 100, None):
        cached, fresh = (jiffy.load(tmp_path / "m", context=context, cache=cache) for cache in (True, False))
        assert np.array_equal(cached.logits(IDS), fresh.logits(IDS))
        assert cached.info()["context"] == fresh.info()["context"]
    assert len(files(cache)) == 1
    with pytest.raises(jiffy.ParameterError, match="context: expected at most"):
        jiffy.load(tmp_path / "m", context=100_000)


def test_bound(cache, tmp_path, monkeypatch):
    """The ones used longest ago go first; what was written last stays."""
    for seed in range(3):
        tiny.write_hf_llama(tmp_path / f"m{seed}", seed=seed)
        jiffy.load(tmp_path / f"m{seed}")
        path = next(path for path in files(cache) if path.name.startswith(f"m{seed}-"))
        os.utime(path, (seed, seed))
    jiffy.load(tmp_path / "m0")  # now it is m1 that was used longest ago
    size = files(cache)[0].stat().st_size
    monkeypatch.setattr(pack_cache, "LIMIT_BYTES", 3 * size)
    tiny.write_hf_llama(tmp_path / "m3", seed=3)
    jiffy.load(tmp_path / "m3")
    assert [path.name[:2] for path in files(cache)] == ["m0", "m2", "m3"]
    monkeypatch.setattr(pack_cache, "LIMIT_BYTES", 1)
    jiffy.load(tmp_path / "m1")
    assert [path.name[:2] for path in files(cache)] == ["m0", "m2", "m3"]  # larger than all there is room for


def test_what_dead_writers_left_goes(cache, source):
    cache.mkdir()
    old, new = cache / "a.jiffy.tmp-1", cache / "b.jiffy.tmp-2"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    jiffy.load(source)
    assert not old.exists() and new.exists()


def test_a_cache_that_cannot_be_written_costs_a_line(cache, source, capfd, monkeypatch):
    cache.write_text("no folder")
    assert jiffy.load(source).logits(IDS).shape
    assert "will be packed again the next time" in capfd.readouterr().err
    monkeypatch.setattr(pack_cache, "folder", _no_home)
    assert jiffy.load(source).logits(IDS).shape


def _no_home() -> Path:
    raise jiffy.FormatError("cache folder", expected="a home", found="none")


def _load(source: Path, cache: Path, n: int, results) -> None:
    pack_cache.folder = lambda: cache
    pack_cache.LEAST_BYTES = 0
    for _ in range(n):
        results.put(jiffy.load(source, n_threads=1).logits(IDS).tobytes())


def test_several_processes_at_once(cache, source):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    writers = [context.Process(target=_load, args=(source, cache, 5, results)) for _ in range(3)]
    for writer in writers:
        writer.start()
    got = {results.get(timeout=120) for _ in range(15)}
    for writer in writers:
        writer.join()
    assert got == {jiffy.load(source, cache=False).logits(IDS).tobytes()}
    assert len(files(cache)) == 1


def run(*args: str, home: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from jiffy.cli import main; main()", *args]
    env = os.environ | {"NO_COLOR": "1", "XDG_CACHE_HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


def test_command_line(cache, source, tmp_path):
    (tmp_path / "home" / "jiffy").mkdir(parents=True)
    jiffy.load(source, weights="i4")
    cache.rename(tmp_path / "home" / "jiffy" / "packed")
    home = tmp_path / "home"
    table = run("cache", home=home).stdout  # whose columns may be too narrow for the path
    assert "i4" in table and f"MB in {home}" in table
    (one,) = json.loads(run("cache", "--json", home=home).stdout)
    assert one["source"] == str(source) and one["weights"] == "i4" and one["size"] > 0
    assert "MB freed" in run("cache", "--clear", home=home).stdout
    assert json.loads(run("cache", "--json", home=home).stdout) == []
    out = tmp_path / "one.jiffy"
    assert run("pack", str(source), str(out), "--weights", "i8", home=home).returncode == 0
    facts = json.loads(run("info", str(out), "--json", "--no-cache", home=home).stdout)
    assert set(facts["formats"]) == {"i8"}
    assert "expected a readable file" in run("pack", "./nowhere.gguf", str(out), home=home).stderr
