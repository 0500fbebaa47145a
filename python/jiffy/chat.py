"""Chat messages to text and to token ids, by the model's own template."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import ParameterError, Unsupported, shown

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

Message = dict[str, str]
Spans = list[tuple[int, int]]

_ROLE = re.compile(r"[\w.-]+")


def render_chat(
    template: str,
    messages: list[Message],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    seconds: float = 2.0,
    max_chars: int = 4 << 20,
) -> str:
    """The text that a jinja2 template makes of messages ({"role": ..., "content": ...}).

    The template sees what Hugging Face's would (messages, bos_token, eos_token, add_generation_prompt, raise_exception,
    strftime_now, tojson without HTML escapes) but is bounded: it may take `seconds`, write `max_chars` characters, and
    has the filters and methods that can be bounded, which is all but a few.
    Raises FormatError("chat_template") for a template that is wrong, refuses the messages or exceeds its bounds, and
    ParameterError for messages that aren't such a list.
    """
    _check_messages(messages)
    from .chat_sandbox import render

    variables = {
        "messages": [dict(message) for message in messages],
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
    }
    return render(template, variables, seconds, max_chars)


def encode_chat(tokenizer: Tokenizer, messages: list[Message], *, add_generation_prompt: bool = True) -> list[int]:
    """Token ids of messages in the tokenizer's chat template, beginning with bos (once) where the model wants it.

    Only the template makes special tokens: "<|im_end|>" in a message's content is text like any other. What is the
    template's is found by rendering the contents with stand-ins for the characters that special tokens begin and end
    with. Where the template itself looks at those characters (to drop "<think>...</think>", say), only those of special
    tokens' whole texts are replaced; should the template, by cutting contents up, put other special tokens together
    than before, then the rendering of the first kind counts, in which it could not.
    Raises FormatError("chat_template") for a bad template, ParameterError for bad messages, Unsupported without a
    template.
    """
    _check_messages(messages)
    if tokenizer.chat_template is None:
        raise Unsupported("chat_template", expected="a model with a chat template", found="none; give it plain text")
    text, own = _render_marked(tokenizer, messages, add_generation_prompt)
    ids = tokenizer.encode(text, parse_special=True)
    # The library has its own view of special tokens (it may normalise text first), so the result is what is judged.
    return ids if _is_own(tokenizer, ids, text, own) else _encode_apart(tokenizer, text, own)


def _render_marked(tokenizer: Tokenizer, messages: list[Message], add_generation_prompt: bool) -> tuple[str, Spans]:
    """The rendered text and where in it the template's own special tokens are."""

    def render(contents: list[str]) -> str:
        changed = [{**message, "content": content} for message, content in zip(messages, contents, strict=True)]
        return render_chat(
            tokenizer.chat_template,
            changed,
            bos_token=_token_text(tokenizer, tokenizer.bos_id),
            eos_token=_token_text(tokenizer, next(iter(tokenizer.eos_ids), None)),
            add_generation_prompt=add_generation_prompt,
        )

    pattern = tokenizer.special_pattern
    contents = [message["content"] for message in messages]
    edges = {edge for token in tokenizer.special_tokens for edge in (token[:1], token[-1:])}
    hide, show = _stand_ins(edges, [tokenizer.chat_template, *contents])
    text = render(contents)
    safe = render([content.translate(hide) for content in contents])
    if safe.translate(show) != text:
        partly = render([pattern.sub(lambda match: match[0].translate(hide), content) for content in contents])
        if pattern.findall(partly) == pattern.findall(safe):
            safe = partly
    return safe.translate(show), [match.span() for match in pattern.finditer(safe)]


def _stand_ins(edges: set[str], texts: list[str]) -> tuple[dict[int, int], dict[int, int]]:
    """Translation tables from characters to private-use ones that none of the texts has, and back."""
    used = set().union(*texts)
    free = (code for code in range(0xF0000, sys.maxunicode + 1) if chr(code) not in used)
    hide = dict(zip(map(ord, sorted(edges)), free, strict=False))
    if len(hide) < len(edges):
        raise ParameterError("messages", expected="text with some private-use characters left", found="all of them")
    return hide, {code: edge for edge, code in hide.items()}


def _token_text(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.id_to_token(token_id)


def _is_own(tokenizer: Tokenizer, ids: list[int], text: str, own: Spans) -> bool:
    """Whether the special tokens among ids are the template's, but for the bos that encoding adds."""
    expected = [tokenizer.special_tokens[text[start:stop]] for start, stop in own]
    found = [token_id for token_id in ids if token_id in tokenizer.special_ids]
    return found in (expected, [tokenizer.bos_id, *expected])


def _encode_apart(tokenizer: Tokenizer, text: str, own: Spans) -> list[int]:
    """Encodes what lies between the template's special tokens as plain text.

    A special token that strips the spaces next to it where it is parsed doesn't do so here.
    """
    ids: list[int] = []
    end = 0
    for start, stop in own:
        ids += _encode_plain(tokenizer, text[end:start], first=end == 0)
        ids.append(tokenizer.special_tokens[text[start:stop]])
        end = stop
    ids += _encode_plain(tokenizer, text[end:], first=end == 0)
    if tokenizer.add_bos and ids[:1] != [tokenizer.bos_id]:
        ids.insert(0, tokenizer.bos_id)
    return ids


def _encode_plain(tokenizer: Tokenizer, text: str, first: bool) -> list[int]:
    """Plain text, without the space that some tokenizers put before the first word of all, unless it is the first."""
    if not text:
        return []
    if not first:
        lead = tokenizer.encode("\n", add_bos=False)
        ids = tokenizer.encode("\n" + text, add_bos=False)
        if lead and ids[: len(lead)] == lead:
            return ids[len(lead) :]
    return tokenizer.encode(text, add_bos=False)


def _check_messages(messages: object) -> None:
    if not isinstance(messages, list) or not messages:
        raise ParameterError("messages", expected="a list of messages", found=shown(messages))
    for where, value in _fields(messages):
        if not isinstance(value, str):
            raise ParameterError(where, expected="a string", found=shown(value))
        if where.endswith('["role"]') and not _ROLE.fullmatch(value):
            raise ParameterError(where, expected='a word such as "user"', found=shown(value))


def _fields(messages: list[object]) -> Iterator[tuple[str, object]]:
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            expected = 'an object with "role" and "content"'
            raise ParameterError(f"messages[{i}]", expected=expected, found=shown(message))
        for key in ("role", "content"):
            yield f'messages[{i}]["{key}"]', message.get(key)
