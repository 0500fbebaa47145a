"""How byte-level tokenizers of GGUF files cut text into words before merging: one row per `tokenizer.ggml.pre`.

The patterns are those of the models' own tokenizer.json files. Each cuts the pieces that the one before it left; what
lies between matches is a piece too. All of them cut between a word and the space after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
_THREE_DIGITS = "[0-9][0-9][0-9]"


def _later(digits: str, letters: str = r"\p{L}", not_punctuation: str = r"\s\p{L}\p{N}") -> str:
    """The family that began with GPT-4: any one character may lead a word, and newlines end punctuation."""
    return (
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{digits}"
        rf"| ?[^{not_punctuation}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True)
class PreTokenizerType:
    """patterns: in the order of their use. ignore_merges: a word that is a token isn't merged. add_bos: the default."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    def build(self) -> PreTokenizer:
        splits = [Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


_DEFAULT = PreTokenizerType((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", _THREE_DIGITS))
_WORDS = PreTokenizerType((_GPT2,))
_WORDS_AND_DIGITS = PreTokenizerType((r"\p{N}", _GPT2))
_LLAMA3 = PreTokenizerType((_later(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_LLAMA3_MERGED = PreTokenizerType(_LLAMA3.patterns)
_QWEN2 = PreTokenizerType((_later(r"\p{N}"),))
_QWEN35 = PreTokenizerType((_later(r"\p{N}", r"[\p{L}\p{M}]", r"\s\p{L}\p{M}\p{N}"),))
_FALCON = PreTokenizerType((_PUNCTUATION, _GPT2, _THREE_DIGITS))
_DEEPSEEK_CODER = PreTokenizerType(
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
)

PRE_TOKENIZERS: dict[str, PreTokenizerType] = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4"), _WORDS),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _WORDS_AND_DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3_MERGED),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"), _QWEN2),
    "qwen35": _QWEN35,
    "falcon": _FALCON,
    "deepseek-coder": _DEEPSEEK_CODER,
}
