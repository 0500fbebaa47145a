"""Texts as an encoder-decoder reads them, and what its decoder begins with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import _core
from .config import MAX_VOCAB
from .errors import ContextOverflow, FormatError, ParameterError, Unsupported, shown
from .languages import language_token
from .marian_bin import shortlist_name, vocabulary_names
from .named_files import MAX_TOKENIZER_BYTES, TOKENIZER_FILES, FilesOfFolder, NamedFiles
from .prompts import Prompt
from .tokenizer import Tokenizer
from .tokenizer_spm import vocabulary_from_spm

if TYPE_CHECKING:
    from .loading import Loading
    from .seq2seq_config import Seq2SeqConfig

_SPREAD = 3  # an answer may have so many times the tokens of its source, where nobody says how many
_SPARE = 32  # and so many more


@dataclass(frozen=True)
class Layout:
    """What stands around a source text: its language before or behind it, a token that begins it, and one that ends it.
    start_is_language: the decoder begins with the target's language, instead of being forced to say it first."""

    language: str = ""  # "before" or "behind"
    bos: bool = False
    start_is_language: bool = False


_LAYOUTS = {
    "MBartTokenizer": Layout("behind", start_is_language=True),
    "MBart50Tokenizer": Layout("before"),
    "M2M100Tokenizer": Layout("before"),
    "NllbTokenizer": Layout("before"),
    "BartTokenizer": Layout(bos=True),
}
_OPUS = "source.spm", "target.spm", "vocab.json"
_BY_TYPE = {"bart": "BartTokenizer", "mbart": "MBartTokenizer", "m2m_100": "M2M100Tokenizer"}


class Seq2SeqReader:
    """source, target: the tokenizers of both sides, often one. shortlist: or None, and the name of its file.

    Raises FormatError, Unsupported.
    """

    def __init__(self, files: NamedFiles, config: Seq2SeqConfig, loading: Loading) -> None:
        self._config, self._context = config, loading.context
        self._layout = Layout()
        kind = _kind(files, config)
        if kind == "marian":
            source, target = vocabulary_names(files)
            self.source = _from_spm(files, source)
            self.target = self.source if source == target else _from_spm(files, target)
        elif kind == "opus":
            ids = _numbering(files)
            self.source, self.target = (_from_spm(files, name, ids) for name in _OPUS[:2])
        else:
            self.source = self.target = Tokenizer.from_files(files)
            self._layout = _layout(files, config.model_type)
        self.eos_ids = config.eos_ids or self.target.eos_ids
        if not self.eos_ids:
            raise FormatError(files.place, expected="a token that ends a text", found="none")
        most = max(self.source.vocab_size, self.target.vocab_size)
        if most > config.vocab_size:
            expected = f"at most {config.vocab_size} tokens, as in its model"
            raise FormatError(f"{files.place} vocabulary", expected=expected, found=str(most))
        self.shortlist_name, self.shortlist = None, None
        if loading.shortlist is True:
            self.shortlist_name = shortlist_name(files) if kind == "marian" else None
            if self.shortlist_name is None:
                raise FormatError(
                    f"{files.place} shortlist", expected="one lex*.bin beside the model", found="none or several"
                )
            self.shortlist = self._shortlist(files, self.shortlist_name)
        elif loading.shortlist:
            path = Path(loading.shortlist)
            self.shortlist_name = path.name
            self.shortlist = self._shortlist(FilesOfFolder(path.parent), path.name)

    def _shortlist(self, files: NamedFiles, name: str) -> _core.Shortlist:
        return _core.Shortlist(
            files.read(name, MAX_TOKENIZER_BYTES),
            name,
            source_vocab=self.source.vocab_size,
            target_vocab=self.target.vocab_size,
            shared=self.source is self.target,
            eos_ids=self.eos_ids,
            unk_id=-1 if self.source.unknown_id is None else self.source.unknown_id,
        )

    @property
    def speaks_languages(self) -> bool:
        """Whether the model has to be told its languages."""
        return bool(self._layout.language)

    def ids(self, text: object, language: str | None = None, truncate: bool = False) -> list[int]:
        """truncate: leaves out the end of a text that is too long. Raises ParameterError, Unsupported for a language,
        ContextOverflow."""
        if not isinstance(text, str):
            raise ParameterError("text", expected="a text", found=shown(text))
        before, behind = [], [self.eos_ids[0]]
        if self._layout.bos and self.source.bos_id is not None:
            before = [self.source.bos_id]
        if self._layout.language:
            token = language_token(self.source, "en" if language is None else language, "source_language")
            (before if self._layout.language == "before" else behind).append(token)
        ids = self.source.encode(text, add_bos=False)
        if truncate:
            ids = ids[: max(self._context - len(before) - len(behind), 0)]
        return self.fitting([*before, *ids, *behind])

    def fitting(self, ids: list[int]) -> list[int]:
        if len(ids) > self._context:
            expected = f"at most {self._context} tokens, the context"
            raise ContextOverflow("text", expected=expected, found=str(len(ids)))
        return ids

    def checked(self, ids: object) -> list[int]:
        """Token ids of a source, as they are. Raises ParameterError, ContextOverflow."""
        if not isinstance(ids, (list, tuple)) or not ids:
            raise ParameterError("token_ids", expected="a list of integers, at least one", found=shown(ids))
        for i, token in enumerate(ids):
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self._config.vocab_size:
                expected = f"an integer from 0 to {self._config.vocab_size - 1}"
                raise ParameterError(f"token_ids[{i}]", expected=expected, found=shown(token))
        return self.fitting(list(ids))

    def target_token(self, language: str | None) -> int | None:
        """The target language's token, of a model that has to be told. Raises ParameterError, Unsupported."""
        if language is None or not self.speaks_languages:
            return None
        return language_token(self.target, language, "target_language")

    def prompt(self, source: list[int], language: int | None, max_tokens: int | None) -> Prompt:
        """max_tokens: of the answer, None for a multiple of the source's length."""
        start = language if language is not None and self._layout.start_is_language else self._config.decoder_start_id
        most = min(_SPREAD * len(source) + _SPARE, self._context) if max_tokens is None else max_tokens
        return Prompt([start], source=source, max_tokens=most)

    def forced(self, language: int | None) -> dict[str, object]:
        """Fields of SamplingParams that say the target language."""
        if language is None or self._layout.start_is_language:
            return {}
        return {"forced_bos_token_id": language}


def vocabulary_files(files: NamedFiles, config: Seq2SeqConfig) -> dict[str, str]:
    """The names of all that a reader may look at, by names that serve it as well."""
    kind = _kind(files, config)
    if kind == "marian":
        source, target = vocabulary_names(files)
        names = {"vocab.spm": source} if source == target else {"srcvocab.spm": source, "trgvocab.spm": target}
        shortlist = shortlist_name(files)
        return names if shortlist is None else {**names, "lex.s2t.bin": shortlist}
    return {name: name for name in (_OPUS if kind == "opus" else TOKENIZER_FILES)}


def _kind(files: NamedFiles, config: Seq2SeqConfig) -> str:
    if config.zero_id is not None:
        return "marian"
    return "opus" if files.has(_OPUS[0]) and not files.has("tokenizer.json") else "tokenizer.json"


def _from_spm(files: NamedFiles, name: str, ids: dict[str, int] | None = None) -> Tokenizer:
    return Tokenizer(vocabulary_from_spm(files, name, ids), name)


def _numbering(files: NamedFiles) -> dict[str, int]:
    """vocab.json of opus-mt's folders, which numbers the pieces of both sides. Raises FormatError."""
    ids = files.read_json(_OPUS[2])
    for text, token_id in ids.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_VOCAB:
            raise FormatError(f"vocab.json {text}", expected=f"an id below {MAX_VOCAB}", found=shown(token_id))
    if not ids:
        raise FormatError("vocab.json", expected="ids by piece", found="none")
    return ids


def _layout(files: NamedFiles, model_type: str) -> Layout:
    """By the tokenizer's class, where the folder names one: mBART and mBART-50 are of one type, as are M2M-100 and
    NLLB."""
    name = _BY_TYPE.get(model_type, "")
    given = files.optional_json("tokenizer_config.json").get("tokenizer_class")
    if isinstance(given, str):
        name = given.removesuffix("Fast")
    if model_type in ("mbart", "m2m_100") and not _LAYOUTS.get(name, Layout()).language:
        expected = "MBartTokenizer, MBart50Tokenizer, M2M100Tokenizer or NllbTokenizer"
        raise Unsupported("tokenizer_config.json tokenizer_class", expected=expected, found=shown(name))
    return _LAYOUTS.get(name, Layout())
