"""How models of the hub are written, and the names that jiffy knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from fake_hub import Repository
from jiffy import hub
from jiffy.errors import ParameterError
from jiffy.hub.listing import list_models
from jiffy.hub.names import HubModel


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
