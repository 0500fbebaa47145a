"""The three families of models: in what they differ until a model is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checkpoint import open_checkpoint
from .config import Config
from .encoder_checkpoint import open_encoder
from .encoder_config import EncoderConfig, is_encoder
from .encoder_texts import TextReader
from .marian_bin import is_marian, model_file, open_marian
from .models.programs import DECODER, ENCODER, HEAD, HIDDEN, EncoderPrograms, encoder_decoder, language_model
from .named_files import TOKENIZER_FILES
from .seq2seq_checkpoint import open_seq2seq
from .seq2seq_config import Seq2SeqConfig, is_seq2seq
from .seq2seq_texts import Seq2SeqReader, vocabulary_files
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from .graph import Traced
    from .loading import Loading
    from .named_files import NamedFiles
    from .packed_config import AnyConfig
    from .weights import Weights

AnyReader = Tokenizer | TextReader | Seq2SeqReader


@dataclass(frozen=True)
class Family:
    """title: for people. config: the class of its configs. open: a checkpoint of it. programs: traces them, by name, of
    a config and weights for a context. body: those whose weights count as the model's. widths: of the results of some
    of its programs, as a config has them. reader: turns texts into tokens, of what has the tokenizer, a config and a
    completed loading. text_files: the names of the files that it may read, by names that serve it as well. rotated: its
    linear layers are packed so (`weights.rotate`)."""

    title: str
    config: type
    open: Callable[[Path], Any]
    programs: Callable[[Any, Weights, int], Mapping[str, Traced]]
    body: tuple[str, ...]
    widths: Callable[[Any], Mapping[str, int]]
    reader: Callable[[Any, Any, Loading], AnyReader]
    text_files: Callable[[NamedFiles, Any], Mapping[str, str]]
    rotated: bool = False


def _tokenizer_files(files: NamedFiles, config: AnyConfig) -> dict[str, str]:
    return {name: name for name in TOKENIZER_FILES}


def _encoder_widths(c: EncoderConfig) -> dict[str, int]:
    widths = {HIDDEN: c.dim}
    if c.head.task:
        widths[HEAD] = c.vocab_size if c.head.task == "mask" else len(c.head.labels)
    return widths


LANGUAGE_MODEL = Family(
    title="a language model",
    config=Config,
    open=open_checkpoint,
    programs=language_model,
    body=(DECODER,),
    widths=lambda config: {},
    reader=lambda text, config, loading: Tokenizer.from_source(text),
    text_files=_tokenizer_files,
)
ENCODERS = Family(
    title="an encoder",
    config=EncoderConfig,
    open=open_encoder,
    programs=EncoderPrograms,
    body=(HIDDEN,),
    widths=_encoder_widths,
    reader=lambda text, config, loading: TextReader(text, config.vocab_size),
    text_files=_tokenizer_files,
    rotated=True,
)
ENCODER_DECODERS = Family(
    title="an encoder-decoder",
    config=Seq2SeqConfig,
    open=lambda path: open_marian(model_file(path)) if is_marian(path) else open_seq2seq(path),
    programs=encoder_decoder,
    body=(ENCODER, DECODER),
    widths=lambda config: {},
    reader=Seq2SeqReader,
    text_files=vocabulary_files,
)


def family_of_source(path: Path) -> Family:
    """The family of the files that a model was published as. Raises FormatError for a bad config."""
    if is_encoder(path):
        return ENCODERS
    return ENCODER_DECODERS if is_marian(path) or is_seq2seq(path) else LANGUAGE_MODEL


def family_of_config(config: AnyConfig) -> Family:
    return next(one for one in (LANGUAGE_MODEL, ENCODERS, ENCODER_DECODERS) if isinstance(config, one.config))
