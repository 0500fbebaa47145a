"""`jiffy chat`, through a pipe and on a terminal, with a parrot that says "abcdefgh. " for ever."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import parrot

TEXT = "abcdefgh. "
TEMPLATE = (
    "{% for m in messages %}{{ ' ' if m.role == 'assistant' else m.role }}{{ m.content }}<|eos|>{% endfor %}{{ ' ' }}"
)
CTRL_C = "\x03"
COMMAND = [sys.executable, "-c", "from jiffy.cli import main; main()", "chat", "--threads", "1"]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> str:
    """After the template's last space it begins with "a"."""
    folder = tmp_path_factory.mktemp("parrot")
    parrot.write_parrot(folder, TEXT, max_position_embeddings=200_000)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    return str(folder)


def piped(model_path: str, lines: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--model", model_path, *options]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)


def test_a_message_a_line(model_path):
    result = piped(model_path, "one\n\n  two  \n", "-n", "12")
    assert (result.returncode, result.stdout, result.stderr) == (0, "abcdefgh. ab\n" * 2, "")


def test_the_conversation_grows_and_is_saved(model_path, tmp_path):
    file = tmp_path / "said.json"
    lines = f"one\n/system Be brief.\n//two\n/save {file}\n/reset\nthree\n/save {file}2\n/exit\nnever\n"
    result = piped(model_path, lines, "-n", "3", "--system", "Sing.")
    assert (result.returncode, result.stdout) == (0, "abc\n" * 3)
    said = [("system", "Be brief."), ("user", "one"), ("assistant", "abc"), ("user", "/two"), ("assistant", "abc")]
    assert json.loads(file.read_text()) == [{"role": role, "content": content} for role, content in said]
    assert [m["content"] for m in json.loads(Path(f"{file}2").read_text())] == ["Be brief.", "three", "abc"]


def test_retry_answers_anew(model_path, tmp_path):
    file = tmp_path / "said.json"
    result = piped(model_path, f"/retry\none\n/retry\n/save {file}\n", "-n", "3", "--system", "")
    assert result.stdout == "abc\nabc\n" and "nothing has been said" in result.stderr
    assert [m["content"] for m in json.loads(file.read_text())] == ["one", "abc"]


def test_what_goes_wrong_is_told_and_the_chat_goes_on(model_path):
    lines = f"/nothing\n/save\n/save {os.sep}no{os.sep}folder{os.sep}f\n/help\n{'x' * 600}\nbad \udcff byte\none\n"
    command = [*COMMAND, "--model", model_path, "-n", "3", "--context", "512"]
    result = subprocess.run(command, input=lines.encode(errors="surrogateescape"), capture_output=True, timeout=120)
    told = result.stderr.decode()
    assert (result.returncode, result.stdout) == (0, b"abc\n")
    for part in ("no command /nothing", "name of a file", "No such file", "/retry", "at most 512 tokens", "U+DCFF"):
        assert part in told, part
    assert "Traceback" not in told


def test_a_long_conversation_loses_its_oldest_turns(model_path, tmp_path):
    """Told once for many turns: half of the context is made free. What is saved is all that was said."""
    file = tmp_path / "said.json"
    lines = "".join(f"{i:040}\n" for i in range(40))
    result = piped(model_path, f"{lines}/save {file}\n", "-n", "10", "--context", "512")
    assert result.stdout == f"{TEXT}\n" * 40
    assert result.returncode == 0
    told = [int(n) for n in re.findall(r"the oldest (\d+) messages are out of it", result.stderr)]
    assert 4 <= len(told) <= 10 and told == sorted(set(told)) and all(n % 2 == 0 for n in told)
    assert len(json.loads(file.read_text())) == 81


def test_a_model_without_a_template(tmp_path):
    parrot.write_parrot(tmp_path, TEXT)
    result = piped(str(tmp_path), "one\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert "chat_template: expected a model with a chat template" in result.stderr


class Terminal:
    """A process whose terminal the test is; what is left of it ends with the `with` block."""

    def __init__(self, *command: str) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "dumb", "INPUTRC": os.devnull}
            os.execvp(command[0], command)
        self._seen = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def type(self, keys: str) -> None:
        if keys == CTRL_C:  # a signal between a key and the wait for the next one is lost on Python's readline
            time.sleep(0.5)
        os.write(self._fd, keys.encode())

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Reads until the pattern has come; returns what came before its end."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern.encode(), self._seen)):
            ready, _, _ = select.select([self._fd], [], [], max(end - time.monotonic(), 0))
            assert ready, f"{pattern!r} does not come: {self._seen!r}"
            self._seen += os.read(self._fd, 65536)
        before, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return before.decode()

    def exit_status(self, seconds: float = 30) -> int:
        """Of the process, which must end by itself."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
            if select.select([self._fd], [], [], 0.05)[0]:
                try:
                    self._seen += os.read(self._fd, 65536)
                except OSError:  # nobody is at the other end any more
                    time.sleep(0.05)
        raise AssertionError(f"does not end: {self._seen[-500:]!r}")


@pytest.mark.parametrize("last_keys", [CTRL_C, "\x04", "/exit\r"], ids=["Ctrl-C", "Ctrl-D", "/exit"])
def test_on_a_terminal(model_path, tmp_path, last_keys):
    """Ctrl-C stops an answer, which stays in the conversation as far as it came; then it empties a line; at an empty
    prompt it ends."""
    file = tmp_path / "said.json"
    sizes = ["-n", "90000", "--context", "190000"]
    with Terminal(*COMMAND, "--model", model_path, *sizes) as terminal:
        terminal.until("/help lists")
        terminal.until("> ")
        terminal.type("one\r")
        terminal.until(re.escape(TEXT * 3))
        terminal.type(CTRL_C)
        assert re.search(r"\[\d+ tokens, first after \d+ ms, \d+ tokens/s, .*, stopped\]", terminal.until(r"\]"))
        terminal.until("> ")
        terminal.type("not to be sent")
        terminal.until("not to be sent")
        terminal.type(CTRL_C)
        terminal.until("> ")
        terminal.type(f"/save {file}\r")
        terminal.until(r"2 messages in \S+")
        terminal.until("> ")
        user, assistant = json.loads(file.read_text())[1:]
        assert user["content"] == "one"
        assert len(assistant["content"]) >= 30
        assert (TEXT * 20_000).startswith(assistant["content"])
        terminal.type(last_keys)
        assert terminal.exit_status() == 0


def test_turns_pay_for_what_is_new(model_path):
    """The line behind an answer says how much of the prompt was known: all whole blocks of what was said before."""
    with Terminal(*COMMAND, "--model", model_path, "-n", "100") as terminal:
        known = []
        for _ in range(3):
            terminal.until("> ")
            terminal.type("hello\r")
            line = terminal.until(r"\[100 tokens.*\]")
            prompt, cached = map(int, re.search(r"prompt of (\d+), (\d+) of them known", line).groups())
            known.append((prompt, cached))
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.exit_status() == 0
        assert known[0][1] == 0
        for (prompt, cached), (before, _) in zip(known[1:], known, strict=False):
            assert before < cached < prompt
