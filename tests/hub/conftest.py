"""A small server that plays the hub, and what lies there."""

from __future__ import annotations

import pytest

import tiny
from fake_hub import FakeHub, Repository, serving


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
