"""What only a process of its own can show: start-up time, Ctrl-C, fork, memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny

_MB = 1 << 20
_LIMIT_S = 60


def _start(code: str, *arguments: object) -> subprocess.Popen:
    """A Python process that runs `code` with arguments in sys.argv."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen) -> dict:
    """What the process prints last, as JSON. It must end in time and well."""
    try:
        out, err = process.communicate(timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"hangs: {process.communicate()}")
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return {**json.loads(out.splitlines()[-1]), "stderr": err}


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    tiny.write_gguf_llama(path)
    return path


def test_import_is_quick():
    """The best of five, over what Python itself takes to start."""
    best = {"pass": float("inf"), "import jiffy": float("inf")}
    for _ in range(5):
        for code in best:
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            best[code] = min(best[code], time.perf_counter() - begin)
    assert best["import jiffy"] - best["pass"] <= 0.3


def test_import_loads_nothing_heavy():
    heavy = "'numpy', 'tokenizers', 'jinja2', 'typer', 'rich', 'torch', 'jiffy._core'"
    code = f"import sys, json, jiffy; print(json.dumps({{'heavy': [m for m in ({heavy}) if m in sys.modules]}}))"
    assert _finish(_start(code))["heavy"] == []


_CTRL_C = """
import json, sys, time
import jiffy
path, text, what = sys.argv[1], open(sys.argv[2], encoding="utf-8").read(), sys.argv[3]
model = jiffy.load(path, n_threads=2)
ids = model.tokenizer.encode(text)[:6000]
calls = {
    "prefill": lambda: model.generate(token_ids=ids, max_tokens=1),
    "generation": lambda: model.generate("Once", max_tokens=8000, ignore_eos=True),
    "stream": lambda: list(model.stream(token_ids=ids)),
    "logits": lambda: model.logits(ids[:3000]),
}
before = model.generate("The capital of France is", max_tokens=4).text
free = model._engine.n_free_blocks
print("ready", flush=True)
try:
    calls[what]()
    print(json.dumps({"seconds": None}))
except KeyboardInterrupt:
    stopped = time.time()
    after = model.generate("The capital of France is", max_tokens=4).text
    whole = model._engine.n_free_blocks == free and model._engine.idle()
    print(json.dumps({"stopped": stopped, "before": before, "after": after, "whole": whole}))
"""


@pytest.mark.parametrize("what", ["prefill", "generation", "stream", "logits"])
def test_ctrl_c(smollm2_path, botchan_text, tmp_path, what):
    text = tmp_path / "text.txt"
    text.write_text(botchan_text, encoding="utf-8")
    process = _start(_CTRL_C, smollm2_path, text, what)
    assert process.stdout.readline() == "ready\n", process.communicate()
    time.sleep(0.7)
    sent = time.time()
    process.send_signal(signal.SIGINT)
    result = _finish(process)
    assert result["stopped"] - sent < 0.5
    assert result["after"] == result["before"] and result["whole"]


_STOPS = """
import json, random, signal, sys, time
import jiffy


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


def prefill():
    model.generate(token_ids=[rng.randrange(100, 40000) for _ in range(512)], max_tokens=1)  # never a known prefix


model = jiffy.load(sys.argv[1], n_threads=5)
rng, n_stops = random.Random(1), 0
begin = time.perf_counter()
prefill()
whole = time.perf_counter() - begin
signal.signal(signal.SIGALRM, stop)
for _ in range(40):
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.1, 0.8) * whole)
        prefill()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        n_stops += 1
print(json.dumps({"n_stops": n_stops, "idle": model._engine.idle()}))
"""


def test_many_stops_with_more_threads_than_cores(smollm2_path):
    """A lane that leaves a barrier late must not take the order to stop for one that was given before it."""
    result = _finish(_start(_STOPS, smollm2_path))
    assert result["n_stops"] >= 10 and result["idle"]


_FORK = """
import json, os, signal, sys, threading
import jiffy
model = jiffy.load(sys.argv[1], n_threads=int(sys.argv[2]))
before = model.generate("hello", max_tokens=8).token_ids
stop = threading.Event()


def keep_busy():
    while not stop.is_set():
        model.generate("hello there", max_tokens=100, ignore_eos=True)


busy = threading.Thread(target=keep_busy)
if sys.argv[3] == "busy":
    busy.start()
readable, writable = os.pipe()
statuses = []
for _ in range(10):
    stream = model.stream("hello", max_tokens=2**31 - 1, ignore_eos=True)  # a new one, that can't have ended
    next(stream)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        names = []
        for call in (
            lambda: model.generate("hello"),
            lambda: model.generate(token_ids=[[1], [2]]),
            lambda: model.stream("hello"),
            lambda: [next(stream) for _ in range(10_000)],  # what has come already, then nothing more
            lambda: model.logits([1, 2]),
        ):
            try:
                call()
                names.append("no error")
            except jiffy.Error as error:
                names.append(type(error).__name__)
        fresh = jiffy.load(sys.argv[1], n_threads=2).generate("hello", max_tokens=8).token_ids
        stream = None
        os.write(writable, json.dumps([names, fresh == before]).encode() + b"\\n")
        del model
        os._exit(0)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stream.close()
stop.set()
if busy.is_alive():
    busy.join()
os.close(writable)
children = [json.loads(line) for line in os.fdopen(readable)]
after = model.generate("hello", max_tokens=8).token_ids
print(json.dumps({"statuses": statuses, "children": children, "goes_on": after == before}))
"""


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("others", ["idle", "busy"])
def test_fork(tiny_path, n_threads, others):
    """A child of fork() gets ForkError whatever its parent did at that moment, and may load a model of its own."""
    result = _finish(_start(_FORK, tiny_path, n_threads, others))
    assert result["statuses"] == [0] * 10, result["stderr"]
    assert result["children"] == [[["ForkError"] * 5, True]] * 10
    assert result["goes_on"]
    assert "Exception ignored" not in result["stderr"]


_EXIT = """
import json, sys, threading
import jiffy
model = jiffy.load(sys.argv[1], n_threads=2)
stream = model.stream("hello")
next(stream)
thread = threading.Thread(target=lambda: model.generate("hello", max_tokens=2**31 - 1, ignore_eos=True), daemon=True)
thread.start()
print(json.dumps({}))
"""


def test_exit_with_requests_under_way(tiny_path):
    """The interpreter goes down while a stream is open and a daemon thread is in the engine."""
    assert _finish(_start(_EXIT, tiny_path))["stderr"] == ""


_MEMORY = """
import gc, json, sys, threading, time
import jiffy


def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon"))


peak, loaded = 0, threading.Event()


def watch():
    global peak
    while not loaded.wait(0.001):
        peak = max(peak, anonymous())


before = anonymous()
watcher = threading.Thread(target=watch)
watcher.start()
weights = sys.argv[2] if len(sys.argv) > 2 else None
model = jiffy.load(sys.argv[1], weights=weights, n_threads=1)
loaded.set()
watcher.join()
after = anonymous()
model.generate("The capital of France is", max_tokens=4)
used = anonymous()
info = model.info()
print(json.dumps({
    "packed": info["packed_bytes"], "kv_of_a_block": info["kv_bytes"] // model._engine.n_blocks,
    "load": after - before, "peak": peak - before, "used": used - before,
    "tensor": model.config.vocab_size * model.config.dim * 4,
}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
@pytest.mark.parametrize("weights", [None, "i4", "f32"], ids=str)
def test_memory(smollm2_path, weights):
    """Anonymous memory, over what the process held before it loaded: packed weights, the KV blocks in use, 120 MB for
    all else (numpy, the tokenizer, buffers); while it loads one tensor and 64 MB more. Huge pages round blocks up."""
    m = _finish(_start(_MEMORY, smollm2_path, *([weights] if weights else [])))
    assert m["packed"] > 70 * _MB
    assert m["load"] <= m["packed"] + 120 * _MB
    assert m["used"] <= m["packed"] + m["kv_of_a_block"] + 120 * _MB
    assert m["peak"] <= m["packed"] + 120 * _MB + m["tensor"] + 64 * _MB
