"""A small HTTP server that plays the Hugging Face hub: listings of repositories and their files, with ranges."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Headers = dict[str, str]


def names(folder: Path) -> set[str]:
    """Of all files below."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Repository:
    """files: by name. revisions: names of `commit`. refusal: (status, headers) instead of any answer."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    listed: dict[str, bytes] | None = None  # what the listing tells, where that isn't `files`
    refusal: tuple[int, Headers] | None = None
    file_refusal: tuple[int, Headers] | None = None  # for files alone

    @classmethod
    def of_folder(cls, folder: Path, **fields) -> Repository:
        return cls({name: (folder / name).read_bytes() for name in names(folder)}, **fields)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def listing(self) -> bytes:
        files = self.files if self.listed is None else self.listed
        siblings = [{"rfilename": name, "size": len(data), "blobId": "0" * 40} for name, data in files.items()]
        return json.dumps({"id": "a/b", "modelId": "a/b", "sha": self.commit, "siblings": siblings}).encode()


@dataclass
class FakeHub:
    """requests: (method, path, Range header) of all that came. breaks: a file's body stops after so many bytes, once
    for each number. body: a listing to send instead of the repository's own."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    body: bytes | None = None
    endpoint: str = ""

    def fetched(self) -> list[str]:
        """Names of the files whose bodies were asked for."""
        return [
            path.split("/resolve/")[1].split("/", 1)[1]
            for way, path, _ in self.requests
            if way == "GET" and "/resolve/" in path
        ]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self._listing(self.hub.repositories.get(repo), revision)
        else:
            repo, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._file(self.hub.repositories.get(repo), revision, name)

    def _listing(self, repository: Repository | None, revision: str) -> None:
        if repository is None:
            return self._send(401, {"X-Error-Code": "RepoNotFound"}, b"{}")
        if repository.refusal is not None:
            return self._send(*repository.refusal, b"{}")
        if revision not in (*repository.revisions, repository.commit):
            return self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
        self._send(200, {"Content-Type": "application/json"}, self.hub.body or repository.listing())

    def _file(self, repository: Repository | None, revision: str, name: str) -> None:
        known = repository is not None and revision in (*repository.revisions, repository.commit)
        if not known or name not in repository.files:
            return self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        if repository.file_refusal is not None:
            return self._send(*repository.file_refusal, b"")
        data = repository.files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": repository.commit}
        span = self.headers.get("Range")
        if span is None:
            return self._send(200, headers, data)
        begin = int(span.removeprefix("bytes=").partition("-")[0])
        self._send(206, headers | {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}, data[begin:])

    def _send(self, status: int, headers: Headers, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if status in (200, 206) and "ETag" in headers and self.hub.breaks and len(body) > self.hub.breaks[0]:
            body = body[: self.hub.breaks.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
