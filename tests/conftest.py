"""Real data for tests: pinned files in public packages, fetched once into jiffy's cache folder; and small models.

Data that can't be had is an error of every test that asks for it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import jiffy
import parrot
import tiny
from jiffy import pack_cache
from jiffy.hub import PinnedFile, fetch_package_file, fetch_package_files, resolve_model
from sanitized import SanitizedBuild, builds_of

BOTCHAN = PinnedFile(
    requirement="sentencepiece==0.2.1",
    kind="sdist",
    member="*/botchan.txt",
    sha256="464bd5300c24fce16fcc4555d4231a57632caae4d0090ad6aa92854a3b227ba7",
    size=278_779,
    title="botchan.txt",
)

VOCABULARIES = {  # file: (size, SHA-256)
    "ggml-vocab-command-r.gguf": (10_874_545, "a2f8cfea952ef7c391a6d92a1c309d0bd32e36384d9b9230569a7425732f27d9"),
    "ggml-vocab-command-r.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-command-r.gguf.out": (1_905, "d2a601336e422b60a264858c01b14c5d37575fe1f9adfcafc2f3b3707903903f"),
    "ggml-vocab-deepseek-coder.gguf": (1_156_067, "91cb1379f2e33af1c4866b194622b7a0e12e8f0c9dba7ba2f10d55978730bec1"),
    "ggml-vocab-deepseek-coder.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-deepseek-coder.gguf.out": (2_096, "c2cea4584b0487e67fbd81f491bb44f89238722062126120d2c412edb3dbd853"),
    "ggml-vocab-falcon.gguf": (2_287_728, "9f0bf8b0733680398b72e652e90f260f43782f326e75545fc0e49611a5ba35ad"),
    "ggml-vocab-falcon.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-falcon.gguf.out": (2_002, "f8c80a0483582ef195c2129b69bb2e4e421b0f31ed7b35d84b63511d7ebae7cd"),
    "ggml-vocab-gpt-2.gguf": (1_766_807, "cedc56ca6e2e89f63e781696d1fd76b4b1d49e6720dee86463e915f6e90016ac"),
    "ggml-vocab-gpt-2.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-gpt-2.gguf.out": (2_147, "48e8c4cb3ad5c37915b225f872222567c1c4dd4d66951aa53460c8d152ff6d60"),
    "ggml-vocab-llama-bpe.gguf": (7_818_140, "97272e430d53bc7688f52d5e0ad8ea8f163ede9f1bbd1694feaa504797d5d96e"),
    "ggml-vocab-llama-bpe.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-llama-bpe.gguf.out": (1_739, "118abf2034a197fc5c9dec5204dfdeee7004c7c70952ae577f66b99e212fab9b"),
    "ggml-vocab-llama-spm.gguf": (723_869, "16c3724582d59aa8bf84711894e833f916ee46a31d80e21312759c48bf8d0e69"),
    "ggml-vocab-llama-spm.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-llama-spm.gguf.out": (2_685, "ad6905c925c49c022974fe67e030382e8a4f56eb4489a0b9481dcedb1ec73b29"),
    "ggml-vocab-mpt.gguf": (1_771_393, "59dc382612866d1fc6c11ea531318d327598f3412d9c8f8600607cdf3030898f"),
    "ggml-vocab-mpt.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-mpt.gguf.out": (1_895, "9d0982a7e7950b81bc2e325fb61bb7e295d2238934ab889737494de2dc4d906b"),
    "ggml-vocab-phi-3.gguf": (726_019, "967d7190d11c4842eab697079d98d56c2116e10eb617be355a2733bfc132e326"),
    "ggml-vocab-phi-3.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-phi-3.gguf.out": (2_685, "ad6905c925c49c022974fe67e030382e8a4f56eb4489a0b9481dcedb1ec73b29"),
    "ggml-vocab-qwen2.gguf": (5_928_681, "44c2f46b715f585c6ab513970e8a006bfa5badd6108560054921cf598d154d8c"),
    "ggml-vocab-qwen2.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-qwen2.gguf.out": (1_765, "de785bb305cc6fa9d43908ed5da337f853c0b79e971348fcfb9f0915a39c5363"),
    "ggml-vocab-qwen35.gguf": (5_928_682, "63ed952ff338996cf0bdf24a7b10015124273f75c6dc9bb427356aa3f67ec62c"),
    "ggml-vocab-qwen35.gguf.inp": (2_651, "0fc6547e7876cd5b2ef64a9d319c6e39040eb53986660bd4227ed7ddef017a94"),
    "ggml-vocab-qwen35.gguf.out": (3_570, "5efe225820325303857d0a087a8d59216f0d1e9a9e31133e7a5b44c3c4e1e9ca"),
    "ggml-vocab-refact.gguf": (1_720_710, "ac3ceda902fed91ccf74312b305d9b86c37e4f8e35fa9cc6ef3ce34fca7d4678"),
    "ggml-vocab-refact.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-refact.gguf.out": (1_918, "c7e5c1c5dc1dfd3e0d56576bf699d2aca0b760b80779523ea9d323aad6cd1b88"),
    "ggml-vocab-starcoder.gguf": (1_719_346, "fedb892b4e1bd3c1f2fcdae356440b14fb458f4264d586e5c987ed93df4e174d"),
    "ggml-vocab-starcoder.gguf.inp": (1_943, "be0a11f7071f0c67d3053a2d377d8f35f0dbcb77ff11a60300fb57d36b477cf0"),
    "ggml-vocab-starcoder.gguf.out": (1_920, "3ef12183c57ad076f9defd8e5eb454f509f5f0865cad35646abb4c4b2d2c5764"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-seconds", type=int, default=3, help="how long each target of tests/fuzz runs")


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C works for the tests that press it, also where a shell started them in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The sanitized tests come last: what they run is built beside the others."""
    items.sort(key=_is_sanitized)


def _is_sanitized(item: pytest.Item) -> bool:
    return item.path.name == "test_native.py"


@pytest.fixture(scope="session", autouse=True)
def sanitized_builds(request) -> Iterator[dict[str, SanitizedBuild]]:
    """Begun with the session."""
    builds = builds_of([item.callspec.params["sanitizers"] for item in request.session.items if _is_sanitized(item)])
    yield builds
    for build in builds.values():
        build.stop()


@pytest.fixture(scope="session", autouse=True)
def packed_files(tmp_path_factory) -> Path:
    """Where this process keeps packed files while it tests, instead of the user's cache."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_cache, "folder", lambda: folder)
        yield folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of one's own, which keeps small models, too."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pack_cache, "folder", lambda: folder)
    monkeypatch.setattr(pack_cache, "LEAST_BYTES", 0)
    return folder


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    return resolve_model(None)


@pytest.fixture(scope="session")
def botchan_text() -> str:
    """An English novel of 279 kB, line ends as in the file."""
    with fetch_package_file(BOTCHAN).open(encoding="utf-8", newline="") as file:
        return file.read()


@pytest.fixture(scope="session")
def vocab_vectors() -> Path:
    """A folder with ggml-vocab-*.gguf of several families, their texts (.inp) and the ids expected for them (.out)."""
    specs = [
        PinnedFile("llama-cpp-python==0.3.36", "sdist", f"*/vendor/llama.cpp/models/{name}", sha256, size, name)
        for name, (size, sha256) in VOCABULARIES.items()
    ]
    return fetch_package_files(specs)[0].parent


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory) -> Path:
    """Random weights: whatever such a model says is nonsense, and depends on all that came before."""
    folder = tmp_path_factory.mktemp("random")
    tiny.write_hf_llama(folder, vocab_size=512, seed=3)
    return folder


@pytest.fixture(scope="session")
def random_model(random_folder) -> jiffy.Model:
    return jiffy.load(random_folder, context=tiny.CONTEXT, n_threads=2)


@pytest.fixture(scope="session")
def quick_model(random_folder) -> jiffy.Model:
    """The same without threads to wake: a single token comes soonest."""
    return jiffy.load(random_folder, context=tiny.CONTEXT, n_threads=1)


@pytest.fixture(scope="session")
def parrot_model(tmp_path_factory) -> jiffy.Model:
    """Says parrot.TEXT again and again."""
    folder = tmp_path_factory.mktemp("parrot")
    parrot.write_parrot(folder, parrot.TEXT)
    return jiffy.load(folder, context=tiny.CONTEXT, n_threads=1)


@pytest.fixture
def blocks_come_back(request):
    """No test leaves a request behind: all blocks are free again."""
    names = {"random_model", "quick_model", "parrot_model"} & set(request.fixturenames)
    models = [request.getfixturevalue(name) for name in names]
    yield
    for model in models:
        assert model._engine.n_free_blocks == model._engine.n_blocks
        assert model._engine.idle() and not model._running._events
