"""Models on the hub, which a small server plays: what is fetched, what is kept, and what errors say."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jiffy
import tiny
import tiny_encoders
from compare import assert_same
from fake_hub import FakeHub, Repository, serving
from jiffy import hub
from jiffy.errors import FormatError, ParameterError, Unsupported
from jiffy.hub.listing import list_models
from jiffy.hub.names import HubModel
from jiffy.sentence_config import Embedding

MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write_hf_llama(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 257}')
    return Repository.of_folder(folder).files


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("tiny") / "a.gguf"
    tiny.write_gguf_llama(path)
    return path.read_bytes()


@pytest.fixture
def server(tmp_path, monkeypatch, tiny_files):
    """The hub with the repository "org/tiny"; both caches are empty."""
    from huggingface_hub import constants

    for name in ("JIFFY_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    extra = {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "README.md": b"#", "onnx/config.json": b"{}"}
    with serving(FakeHub({"org/tiny": Repository(tiny_files | extra, ("main", "v1", "refs/pr/1"))})) as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)
        template = made.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield made


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_fetched_once(server, capsys, tiny_files):
    path = hub.resolve_model("org/tiny")
    assert names(path) == MODEL_FILES == set(server.fetched())
    assert (path / "model.safetensors").read_bytes() == tiny_files["model.safetensors"]
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "fetching org/tiny" in err and "MB, commit" in err
    server.requests.clear()
    assert hub.resolve_model("org/tiny") == path
    assert server.requests == []
    assert capsys.readouterr().err == ""


def test_it_loads_as_the_folder_does(server, tmp_path, tiny_files):
    for name in MODEL_FILES:
        (tmp_path / name).write_bytes(tiny_files[name])
    ids = [1, 2, 3]
    fetched, local = jiffy.load("org/tiny", n_threads=1), jiffy.load(tmp_path, n_threads=1)
    assert np.array_equal(fetched.logits(ids), local.logits(ids))


def test_an_encoder_comes_with_what_says_how_it_pools(server, tmp_path):
    folder = tmp_path / "encoder"
    tiny_encoders.write(folder, "bert")
    tiny_encoders.write_modules(folder, True, {"pooling_mode_cls_token": True})
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 99}')
    server.repositories["org/encoder"] = Repository.of_folder(folder)
    encoder = jiffy.load_encoder("org/encoder")
    assert encoder.embedding == Embedding("first", True, 99) and encoder.context == 99
    assert_same(encoder.encode("a text"), jiffy.load_encoder(folder).encode("a text"))


def test_offline_needs_a_fetch_before(server, monkeypatch):
    from huggingface_hub import constants

    for forbid, name in [
        (lambda: monkeypatch.setenv("JIFFY_OFFLINE", "1"), "JIFFY_OFFLINE"),
        (lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True), "HF_HUB_OFFLINE"),
    ]:
        with monkeypatch.context():
            forbid()
            with pytest.raises(FormatError, match=f"org/tiny: expected .*unset {name}"):
                hub.resolve_model("org/tiny")
        monkeypatch.delenv("JIFFY_OFFLINE", raising=False)
    assert server.requests == []


def test_offline_uses_what_is_there(server, monkeypatch, tmp_path):
    path = hub.resolve_model("org/tiny")
    monkeypatch.setenv("JIFFY_OFFLINE", "1")
    assert hub.resolve_model("org/tiny") == path
    commit = server.repositories["org/tiny"].commit
    for record in (tmp_path / "cache").rglob("*.json"):
        record.write_text("{}")
    # As another program may have put it there: the hub's own layout says which commit a branch is.
    assert hub.resolve_model("org/tiny") == hub.resolve_model(f"org/tiny@{commit}") == path
    (path.parents[1] / "refs" / "main").unlink()
    with pytest.raises(FormatError, match="JIFFY_OFFLINE"):
        hub.resolve_model("org/tiny")
    (path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="found not all of it"):
        hub.resolve_model(f"org/tiny@{commit}")


def test_without_an_answer_the_cache_will_do(server, tmp_path, capsys):
    path = hub.resolve_model("org/tiny")
    for record in (tmp_path / "cache").rglob("*.json"):
        record.unlink()
    server.repositories["org/tiny"].refusal = (500, {})
    capsys.readouterr()
    assert hub.resolve_model("org/tiny") == path
    assert "org/tiny comes from the cache, without a look at the hub (HTTP status 500)" in capsys.readouterr().err
    (path / "config.json").unlink()
    (path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="HTTP status 500"):
        hub.resolve_model("org/tiny")


def test_a_part_that_another_program_fetched_is_completed(server):
    from huggingface_hub import hf_hub_download

    hf_hub_download("org/tiny", "model.safetensors")
    hf_hub_download("org/tiny", "config.json")
    server.requests.clear()
    assert names(hub.resolve_model("org/tiny")) == MODEL_FILES
    assert "model.safetensors" not in server.fetched()


def test_deleted_files_are_fetched_again(server):
    path = hub.resolve_model("org/tiny")
    (path / "tokenizer.json").unlink()
    server.requests.clear()
    assert hub.resolve_model("org/tiny") == path
    assert names(path) == MODEL_FILES and server.fetched() == []  # the blob was still there
    real = (path / "tokenizer.json").resolve()
    real.unlink()
    assert hub.resolve_model("org/tiny") == path
    assert server.fetched() == ["tokenizer.json"]


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "COMMIT"])
def test_revisions(server, revision):
    revision = revision.replace("COMMIT", server.repositories["org/tiny"].commit)
    assert names(hub.resolve_model(f"org/tiny@{revision}")) == MODEL_FILES


def test_a_pinned_revision_stays(server):
    old = server.repositories["org/tiny"]
    path = hub.resolve_model(f"org/tiny@{old.commit}")
    server.repositories["org/tiny"] = Repository(old.files | {"config.json": b"{}"})
    assert hub.resolve_model(f"org/tiny@{old.commit}") == path
    assert hub.resolve_model("org/tiny") != path


def test_a_broken_connection_is_resumed(server, monkeypatch, tiny_files):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    server.breaks = [50_000]
    path = hub.resolve_model("org/tiny", progress=False)
    assert (path / "model.safetensors").read_bytes() == tiny_files["model.safetensors"]
    asked = [span for _, name, span in server.requests if name.endswith("model.safetensors") and span]
    assert asked == ["bytes=50000-"]


def test_shards(server, tmp_path):
    tiny.write_hf_llama(tmp_path / "sharded", shards=3)
    server.repositories["org/shards"] = Repository.of_folder(tmp_path / "sharded")
    server.repositories["org/shards"].files["consolidated.safetensors"] = b"the same once more"
    path = hub.resolve_model("org/shards")
    assert len(names(path)) == 7 and "consolidated.safetensors" not in names(path)
    jiffy.load("org/shards", n_threads=1)


def test_one_gguf_file(server, gguf):
    server.repositories["org/one"] = Repository({"model.gguf": gguf, "README.md": b"#"})
    path = hub.resolve_model("org/one")
    assert path.read_bytes() == gguf and path.suffix == ".gguf"
    assert hub.resolve_model("org/one") == path
    jiffy.load("org/one", n_threads=1)


def test_several_gguf_files(server, gguf, monkeypatch):
    server.repositories["org/many"] = Repository({"q4.gguf": gguf, "sub/q8.gguf": gguf}, ("main", "v2"))
    with pytest.raises(ParameterError, match=r'"org/many:q4.gguf", found q4.gguf, sub/q8.gguf'):
        hub.resolve_model("org/many")
    for name in ("org/many:sub/q8.gguf", "org/many@v2:sub/q8.gguf"):
        path = hub.resolve_model(name)
        assert path.read_bytes() == gguf and path.as_posix().endswith("/sub/q8.gguf")
    assert server.fetched() == ["sub/q8.gguf"]
    with pytest.raises(
        ParameterError, match=r'expected a GGUF file of org/many: q4.gguf, sub/q8.gguf, found "q5.gguf"'
    ):
        hub.resolve_model("org/many:q5.gguf")
    monkeypatch.setenv("JIFFY_OFFLINE", "1")
    assert hub.resolve_model("org/many:sub/q8.gguf").read_bytes() == gguf


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


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("a/b", HubModel("a/b")),
        ("A-1.b/c_d.e@refs/pr/3", HubModel("A-1.b/c_d.e", "refs/pr/3")),
        ("a/b:x y/z (1).gguf", HubModel("a/b", "main", "x y/z (1).gguf")),
        ("a/b@v1.0:z.gguf", HubModel("a/b", "v1.0", "z.gguf")),
    ],
)
def test_how_a_model_is_written(text, model):
    assert HubModel.parse(text) == model
    assert HubModel.parse(str(model)) == model


@pytest.mark.parametrize(
    "text",
    ["a", "a/b/c", "a/b@", "a/b:", "a/b:c.bin", "../b", "a/..b", "a/b@../c", "a b/c", "a/é", "a/b:/x.gguf",
     "a/b:../x.gguf", "a/b@v1@v2", "a/b:c:d.gguf", "a/b\n", "/a/b", "~a/b"],
)  # fmt: skip
def test_what_is_no_model_of_the_hub(text):
    assert HubModel.parse(text) is None


def test_the_environment_alone(server, tmp_path):
    """A process of its own, told by variables as a person would: a fetch, then a load without any network."""
    code = "import jiffy, sys; m = jiffy.load('org/tiny', n_threads=1, context=64); print(m.logits([1]).sum())"
    variables = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
    environment = (
        os.environ | variables | {"XDG_CACHE_HOME": str(tmp_path / "c"), "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    runs = []
    for extra in ({}, {"JIFFY_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        result = subprocess.run([sys.executable, "-c", code], env=environment | extra, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        runs.append(result)
    assert runs[0].stdout == runs[1].stdout and runs[1].stderr == ""
    assert runs[0].stderr.count("\n") == 1 and str(tmp_path / "home") in runs[0].stderr
    assert {path.split("/")[1] for _, path, _ in server.requests} <= {"api", "org"}


def test_models_are_listed(server, gguf, monkeypatch):
    from huggingface_hub import hf_hub_download

    monkeypatch.setitem(hub.MODELS, "tiny", hub.Alias("org/tiny", 7))
    server.repositories["org/many"] = Repository({"q4.gguf": gguf, "q8.gguf": gguf + b"x"})
    server.repositories["org/half"] = Repository({"config.json": b"{}", "model.safetensors": b"x"})
    before = {one.name: one for one in list_models()}
    assert before.keys() == hub.MODELS.keys()
    assert (before["tiny"].path, before["tiny"].size, before["tiny"].source) == (None, 14, "org/tiny")
    tiny_path, many_path = hub.resolve_model("tiny"), hub.resolve_model("org/many:q8.gguf")
    hf_hub_download("org/many", "q4.gguf")  # as another program would
    hf_hub_download("org/half", "config.json")
    server.requests.clear()
    after = {one.name: one for one in list_models()}
    assert after.keys() - before.keys() == {"org/many:q8.gguf", "org/many:q4.gguf"}
    assert after["tiny"].path == str(tiny_path)
    assert after["tiny"].size == sum(path.stat().st_size for path in tiny_path.iterdir())
    assert (after["org/many:q8.gguf"].path, after["org/many:q8.gguf"].size) == (str(many_path), len(gguf) + 1)
    assert server.requests == []
    for name in ("tiny", "org/many:q4.gguf"):
        assert str(hub.resolve_model(name)) == after[name].path


def test_a_name_is_its_repository(server, monkeypatch):
    monkeypatch.setitem(hub.MODELS, "tiny", hub.Alias("org/tiny", 7))
    assert hub.resolve_model("tiny") == hub.resolve_model("org/tiny")


def test_names_are_names_of_the_hub():
    for name, entry in hub.MODELS.items():
        assert HubModel.parse(name) is None and Path(name).suffix != ".gguf"
        assert isinstance(entry, (hub.PinnedFile, hub.PinnedFolder)) or HubModel.parse(entry.repo) == entry.model


@pytest.mark.parametrize(
    ("name", "said"),
    [("smolm2-135m", 'name: "smollm2-135m"'), ("Qwen2.5-0.5B", 'name: "qwen2.5-0.5b"'), ("zzz", "tinyllama")],
)
def test_unknown_names_suggest_the_nearest(name, said):
    with pytest.raises(ParameterError, match=said):
        hub.resolve_model(name)
