"""Models on the hub, which a small server plays: what is fetched, and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import jiffy
import tiny
import tiny_encoders
from compare import assert_same
from fake_hub import Repository, names
from jiffy import hub
from jiffy.errors import FormatError, ParameterError
from jiffy.sentence_config import Embedding

MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


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
