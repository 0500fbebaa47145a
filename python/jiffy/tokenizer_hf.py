"""A tokenizer out of a Hugging Face folder: tokenizer.json and the files that name its special tokens."""

from __future__ import annotations

import json

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from .errors import FormatError
from .fields import Fields
from .named_files import MAX_TOKENIZER_BYTES, NamedFiles
from .spelling import from_decoder
from .vocabulary import MAX_VOCAB, Vocabulary, added_token, library_errors, read_library

_MAX_TEMPLATE_BYTES = 1 << 20


def vocabulary_from_files(files: NamedFiles) -> Vocabulary:
    """Raises FormatError that names the file and the key, Unsupported for rare decoders."""
    where = "tokenizer.json"
    with library_errors(where, "a tokenizer of the tokenizers library"):
        library = read_library(files.read(where, MAX_TOKENIZER_BYTES), where)
        vocab_size = _vocab_size(library)
        decoder = json.loads(library.decoder.__getstate__()) if library.decoder is not None else None
        begin = library.encode("").ids[:1]  # a post-processor can add tokens; of those only bos counts
    if not 0 < vocab_size <= MAX_VOCAB:
        raise FormatError(f"{where} vocab", expected=f"ids below {MAX_VOCAB}", found=f"{vocab_size - 1}")
    config, *model_files = (
        Fields(files.optional_json(name), name)
        for name in ("tokenizer_config.json", "config.json", "generation_config.json")
    )
    bos_ids = _special_ids("bos", config, library, model_files, vocab_size)[:1]
    return Vocabulary(
        library=library,
        added={token_id: _same(token) for token_id, token in sorted(library.get_added_tokens_decoder().items())},
        spelling=from_decoder(decoder),
        vocab_size=vocab_size,
        bos_id=bos_ids[0] if bos_ids else None,
        add_bos=config.boolean("add_bos_token", default=tuple(begin) == bos_ids) and bool(bos_ids),
        eos_ids=_special_ids("eos", config, library, model_files, vocab_size),
        chat_template=_chat_template(files, config),
        unknown_id=_unknown_id(config, library),
    )


def _same(token: AddedToken) -> AddedToken:
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    return added_token(token.content, token.special, **{flag: getattr(token, flag) for flag in flags})


def _vocab_size(library: Library) -> int:
    """One more than the largest id. Where as many ids as there are tokens all have one, that is their number: asking so
    takes a fifth of the time of a dictionary of them all (100 ms for 128k tokens)."""
    n = library.get_vocab_size(with_added_tokens=True)
    if None not in map(library.id_to_token, range(n)):
        return n
    return max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _unknown_id(config: Fields, library: Library) -> int | None:
    """As the library's model has it, else as the config does."""
    named = _token_id(config, "unk_token", library)
    text = getattr(library.model, "unk_token", None)
    token_id = None if text is None else library.token_to_id(text)
    return named if token_id is None else token_id


def _token_id(config: Fields, key: str, library: Library) -> int | None:
    """The id of a special token, which is written as its text or as an object with "content"."""
    value = config.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    token_id = library.token_to_id(text) if isinstance(text, str) else None
    if token_id is None:
        raise config.error(key, "a token of tokenizer.json", value)
    return token_id


def _special_ids(
    kind: str, config: Fields, library: Library, model_files: list[Fields], vocab_size: int
) -> tuple[int, ...]:
    """All that the folder names: a chat model's generation_config.json often adds the end of a turn."""
    token_id = _token_id(config, f"{kind}_token", library)
    named = [] if token_id is None else [token_id]
    listed = [one for file in model_files for one in file.ids(f"{kind}_token_id", vocab_size)]
    return tuple(dict.fromkeys([*named, *listed]))


def _chat_template(files: NamedFiles, config: Fields) -> str | None:
    """chat_template.jinja, else "chat_template" of tokenizer_config.json: a text, or named ones with a "default"."""
    name = "chat_template.jinja"
    if files.has(name):
        try:
            return files.read(name, _MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise FormatError(name, expected="UTF-8", found=f"another byte at {error.start}") from None
    value = config.get("chat_template")
    if isinstance(value, list):
        named = (one for one in value if isinstance(one, dict) and one.get("name") == "default")
        value = next(named, {}).get("template")
    if value is not None and not isinstance(value, str):
        raise config.error("chat_template", "a text, or a list of named texts", value)
    return value
