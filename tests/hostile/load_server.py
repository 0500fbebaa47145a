"""A process that has imported jiffy, and forks a child for every load that it is asked for: a child costs milliseconds
where a process of its own would cost half a second, and is as separate. Run as a script by `LoadServer`.

A request is a line of JSON, {"path", "options", "good"}; the child loads `path`, which should fail, and then answers a
request to the model at `good`. The reply is a line too: {"error", "text", "where", "expected", "found", "seconds",
"token_ids"}, or {"died": why}.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time

_ADDRESS_SPACE = 6 << 30
_LIMIT_S = 20.0


class LoadServer:
    """The side of the tests: starts the server, asks it, stops it."""

    def __enter__(self) -> LoadServer:
        command = [sys.executable, __file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=_LIMIT_S)
        self._server.stdout.close()

    def ask(self, path: object, good: object, **options: object) -> dict:
        request = {"path": str(path), "good": str(good), "options": options}
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


def _attempt(path: str, good: str, options: dict) -> dict:
    import jiffy

    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    begin = time.perf_counter()
    reply: dict[str, object] = {"error": None, "text": "it loaded"}
    try:
        jiffy.load(path, **options)
    except jiffy.Error as error:
        reply = {"error": type(error).__name__, "text": str(error)}
        reply |= {"where": error.where, "expected": error.expected, "found": error.found}
    except BaseException as error:
        reply = {"error": None, "text": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - begin
    token_ids = jiffy.load(good).generate("hello", max_tokens=4).token_ids
    return {**reply, "seconds": seconds, "token_ids": token_ids}


def _in_child(request: dict) -> str:
    """The reply of a forked child as JSON, or what became of it."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writable, json.dumps(_attempt(**request)).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writable)
    if not select.select([readable], [], [], _LIMIT_S)[0]:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(readable) as pipe:
        reply = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return reply if status == 0 else json.dumps({"died": f"exit status {status} (-9 here: after {_LIMIT_S:g} s)"})


def main() -> None:
    import jiffy.llm  # noqa: F401  # what every child needs; threads come with a load alone

    for line in sys.stdin:
        print(_in_child(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
