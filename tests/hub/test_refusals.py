"""What the hub refuses, and a hub that lies: errors say what to do, and nothing is written outside of the caches."""

from __future__ import annotations

import errno
import json
import os

import pytest

from fake_hub import Repository, names
from jiffy import hub
from jiffy.errors import FormatError, ParameterError, Unsupported


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        (["pytorch_model.bin", "config.json"], Unsupported, "save_pretrained.*found pytorch_model.bin"),
        (["README.md"], Unsupported, "found 1 files, none of them"),
        (["a-00001-of-00002.gguf"], Unsupported, "in one piece, found a-00001-of-00002.gguf"),
        (["model-00001-of-00002.safetensors"], Unsupported, "shards with an index"),
        (["model.safetensors", "tokenizer.json"], Unsupported, "config.json beside the weights, found none"),
        (["model.safetensors", "config.json", "tokenizer.model"], Unsupported, "tokenizer.json beside the weights"),
    ],
)
def test_repositories_without_weights(server, files, kind, said):
    server.repositories["org/x"] = Repository(dict.fromkeys(files, b"x"))
    with pytest.raises(kind, match=said):
        hub.resolve_model("org/x")
    assert server.fetched() == []


@pytest.mark.parametrize(
    ("status", "headers", "kind", "said"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, ParameterError, 'expected a repository on .*HF_TOKEN.*found "org/x"'),
        (401, {}, FormatError, "a repository on .* and a token.*HTTP status 401"),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            FormatError,
            "accept the terms on .*/org/x, .*HF_TOKEN.*a gated repository",
        ),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, FormatError, "token.*status 401"),
        (403, {}, FormatError, "a token that may read it.*HTTP status 403"),
        (500, {}, FormatError, "try again later.*HTTP status 500"),
        (404, {}, FormatError, "HTTP status 404"),
    ],
)
def test_refusals(server, status, headers, kind, said):
    server.repositories["org/x"] = Repository({}, refusal=(status, headers))
    with pytest.raises(kind, match=said):
        hub.resolve_model("org/x")


def test_a_gated_file(server, tiny_files):
    """Gated repositories are listed to everybody."""
    gate = (403, {"X-Error-Code": "GatedRepo"})
    server.repositories["org/x"] = Repository(tiny_files, file_refusal=gate)
    with pytest.raises(FormatError, match="accept the terms"):
        hub.resolve_model("org/x")


def test_names_that_the_hub_does_not_have(server):
    with pytest.raises(ParameterError, match='name_or_path: expected a repository on .*found "org/none"'):
        hub.resolve_model("org/none")
    with pytest.raises(ParameterError, match='expected a branch, tag or commit of org/tiny, found "v9"'):
        hub.resolve_model("org/tiny@v9")
    with pytest.raises(ParameterError, match='found "org/a--b"'):
        hub.resolve_model("org/a--b")


def test_no_connection(server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FormatError, match="is the network up.*ConnectError"):
        hub.resolve_model("org/tiny")


@pytest.mark.parametrize(
    "body",
    [b"no JSON", b"[]", b"{}", b'{"id": "a/b", "sha": "../../../x", "siblings": []}',
     b'{"id": "a/b", "sha": null, "siblings": [{"rfilename": 7}]}', b'{"id": "a/b", "siblings": 3}'],
)  # fmt: skip
def test_a_hub_that_answers_nonsense(server, body):
    server.body = body
    with pytest.raises(FormatError, match="org/tiny: expected an answer from http"):
        hub.resolve_model("org/tiny")


@pytest.mark.parametrize("outside", ["../../../../outside.safetensors", "/outside.safetensors", "sub/x.safetensors"])
def test_an_index_that_points_outside(server, tmp_path, tiny_files, outside):
    files = {name: data for name, data in tiny_files.items() if name != "model.safetensors"}
    index = json.dumps({"weight_map": {"model.norm.weight": outside}}).encode()
    repository = Repository(files | {"model.safetensors.index.json": index, outside: b"x"})
    server.repositories["org/x"] = repository
    before = names(tmp_path)
    with pytest.raises(FormatError, match="names of the repository's safetensors"):
        hub.resolve_model("org/x")
    new = {name for name in names(tmp_path) - before if not name.startswith("hf/")}
    assert not new and server.fetched() == ["model.safetensors.index.json"]


def test_a_listing_that_points_outside(server, tmp_path, gguf):
    server.repositories["org/x"] = Repository({"../../../../outside.gguf": gguf})
    with pytest.raises(FormatError, match="org/x"):
        hub.resolve_model("org/x")
    assert not list(tmp_path.rglob("outside.gguf"))
    with pytest.raises((FormatError, ParameterError)):
        hub.resolve_model("org/x:../../../../outside.gguf")


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "free disk space"), (errno.EROFS, "can be written")])
def test_a_full_or_read_only_disk(server, monkeypatch, number, said):
    import huggingface_hub.file_download as library

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(library, "http_get", fail)
    with pytest.raises(FormatError, match=f"{said}.*HF_HOME"):
        hub.resolve_model("org/tiny")
