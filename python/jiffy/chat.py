"""Chat messages to a prompt, through the jinja template that comes with a model."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from jinja2 import TemplateError, TemplateSyntaxError

from .errors import FormatError, ParameterError, Unsupported, shown
from .template_budget import Budget, Spent
from .template_sandbox import BoundedEnvironment, Refused
from .tokenizer import Tokenizer

MAX_SECONDS = 2.0
MAX_CHARS = 4 << 20

_MAX_TEMPLATE_CHARS = 1 << 16  # the longest known have 17,000; compiling takes up to 20 us a character
_ROLE = re.compile(r"[\w .-]{1,64}")
_PRIVATE_USE = range(0xF0000, 0xFFFFE)

Message = Mapping[str, str]
Segment = tuple[str, bool]


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    seconds: float = MAX_SECONDS,
    max_chars: int = MAX_CHARS,
    **extra: object,
) -> str:
    """The prompt text that a chat template makes of messages, as transformers' apply_chat_template renders it.

    messages: dicts of strings with "role" and "content" at least. extra: more variables for the template (tools,
    documents, ...); they are trusted. The template is not: it runs in `BoundedEnvironment`, ends within about `seconds`
    and makes no text of more than max_chars.
    Raises ParameterError for messages of another form or size, FormatError for a template that fails, takes too much
    or refuses the messages.
    """
    variables = _variables(bos_token, eos_token, add_generation_prompt, extra)
    return _renderer(template, variables, seconds, max_chars)(_checked(messages, max_chars))


def render_chat_segments(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    special_pattern: re.Pattern[str] | None = None,
    seconds: float = MAX_SECONDS,
    max_chars: int = MAX_CHARS,
    **extra: object,
) -> list[Segment]:
    """The text of `render_chat` in segments (text, is_user_content), so that a user's "<|im_end|>" stays text.

    All strings of a message but its role are user content. They are marked with random brackets, inside of the spaces
    around them, and the template is rendered again: if it only copies or trims them, the brackets come out in pairs and
    nothing else differs. A template that does more (looks into a content, cuts it, changes it) is rendered with the
    contents' special tokens, which special_pattern matches, spoilt by one character instead; then those tokens alone
    are user content. A template that sees even that difference is refused with FormatError.
    """
    variables = _variables(bos_token, eos_token, add_generation_prompt, extra)
    render = _renderer(template, variables, seconds, max_chars)
    checked = _checked(messages, max_chars)
    text = render(checked)
    return _bracketed(render, checked, text) or _spoilt(render, checked, text, special_pattern or re.compile(r"(?!)"))


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    *,
    template: str | None = None,
    add_generation_prompt: bool = True,
    **extra: object,
) -> list[int]:
    """Token ids of a chat. Special tokens come from the template alone; BOS too, if the template writes it.

    Where no message holds a special token's text, the ids are those of the whole text. Else the text between the
    template's special tokens is encoded as plain text: the same cuts as in the whole, so that words merge alike. (A
    Hugging Face tokenizer that puts a space before the first word alone puts one after each special token then.)
    Raises Unsupported if neither the tokenizer nor the caller has a template, else as `render_chat`.
    """
    template = tokenizer.chat_template if template is None else template
    if template is None:
        raise Unsupported("chat_template", expected="a model with a chat template, or a template", found="neither")
    segments = render_chat_segments(
        template,
        messages,
        bos_token="" if tokenizer.bos_id is None else tokenizer.id_to_token(tokenizer.bos_id),
        eos_token=tokenizer.id_to_token(tokenizer.eos_ids[0]) if tokenizer.eos_ids else "",
        add_generation_prompt=add_generation_prompt,
        special_pattern=tokenizer.special_pattern,
        **extra,
    )
    return encode_segments(tokenizer, segments)


def encode_segments(tokenizer: Tokenizer, segments: Iterable[Segment]) -> list[int]:
    """Token ids of (text, is_user_content) segments: special tokens count in the others alone, never across."""
    text, spans = "", []
    for part, is_user_content in segments:
        if not is_user_content:
            found = tokenizer.special_pattern.finditer(part)
            spans += [(len(text) + match.start(), len(text) + match.end()) for match in found]
        text += part
    special_ids = [tokenizer.special_tokens[text[start:stop]] for start, stop in spans]
    if [match.span() for match in tokenizer.special_pattern.finditer(text)] == spans:
        whole = tokenizer.encode(text, add_bos=False, parse_special=True)
        # A tokenizer that changes text first (to lower case, say) may see specials where the pattern sees none.
        if [one for one in whole if one in tokenizer.special_ids] == special_ids:
            return whole
    ids, end = [], 0
    for (start, stop), special_id in zip(spans, special_ids):
        ids += [*tokenizer.encode(text[end:start], add_bos=False), special_id]
        end = stop
    return ids + tokenizer.encode(text[end:], add_bos=False)


def _variables(bos_token: str, eos_token: str, add_generation_prompt: bool, extra: dict[str, object]) -> dict:
    own = {"bos_token": bos_token, "eos_token": eos_token, "add_generation_prompt": add_generation_prompt}
    return {"tools": None, "documents": None, **own, **extra}


def _checked(messages: Sequence[Message], max_chars: int) -> list[dict[str, str]]:
    """The messages as plain dicts."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ParameterError("messages", expected="a list of one message at least", found=shown(messages))
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ParameterError(f"messages[{index}]", expected="a dict of strings", found=shown(message))
        for key in {"role": None, "content": None, **message}:
            value = message.get(key)
            if not isinstance(key, str) or not isinstance(value, str):
                raise ParameterError(f"messages[{index}][{key!r}]", expected="a string", found=shown(value))
        if not _ROLE.fullmatch(message["role"]):
            expected = "a name of letters, digits, spaces, dots, dashes"
            raise ParameterError(f"messages[{index}]['role']", expected=expected, found=shown(message["role"]))
    n_chars = sum(len(value) for message in messages for value in message.values())
    if n_chars > max_chars:
        raise ParameterError("messages", expected=f"at most {max_chars} characters", found=str(n_chars))
    return [dict(message) for message in messages]


def _renderer(template: str, variables: dict, seconds: float, max_chars: int) -> Callable[[list], str]:
    """A function of the messages; all its calls share one budget."""
    if not isinstance(template, str) or len(template) > _MAX_TEMPLATE_CHARS:
        found = f"{len(template)}" if isinstance(template, str) else shown(template)
        raise FormatError("chat_template", expected=f"a text of at most {_MAX_TEMPLATE_CHARS} characters", found=found)
    environment = BoundedEnvironment(Budget(seconds, max_chars))
    with _template_errors():
        program = environment.program(template)

    def render(messages: list[dict[str, str]]) -> str:
        with _template_errors():
            context = program.new_context({"messages": messages, **variables})
            return environment.concat(program.root_render_func(context))

    return render


@contextmanager
def _template_errors() -> Iterator[None]:
    """Turns all that a template can raise, which is whatever Python can, into FormatError."""
    try:
        yield
    except Spent as error:
        raise FormatError("chat_template", expected=error.expected, found=error.found) from None
    except Refused as error:
        raise FormatError("chat_template", expected="messages that it accepts", found=str(error)) from None
    except RecursionError:
        raise FormatError("chat_template", expected="an end", found="endless recursion") from None
    except TemplateSyntaxError as error:
        found = f"line {error.lineno}: {error.message}"
        raise FormatError("chat_template", expected="a jinja template", found=found) from None
    except Exception as error:
        found = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
        raise FormatError("chat_template", expected="a template that renders", found=found) from None


def _contents_mapped(messages: list[dict[str, str]], change: Callable[[str], str]) -> list[dict[str, str]]:
    return [{key: value if key == "role" else change(value) for key, value in one.items()} for one in messages]


def _bracketed(render: Callable[[list], str], messages: list[dict[str, str]], text: str) -> list[Segment] | None:
    """Segments found by brackets around the contents; None if the template does more than copy or trim them."""
    opening, closing = secrets.token_hex(16), secrets.token_hex(16)

    def bracket(content: str) -> str:
        core = content.strip()
        before, after = content.split(core, 1) if core else (content, "")
        return f"{before}{opening}{core}{closing}{after}" if core else content

    try:
        marked = render(_contents_mapped(messages, bracket))
    except FormatError:
        return None
    if marked.replace(opening, "").replace(closing, "") != text:
        return None
    first, *rest = marked.split(opening)
    segments = [(first, False)]
    for part in rest:
        content, bracket_found, after = part.partition(closing)
        if not bracket_found or closing in after:
            return None
        segments += [(content, True), (after, False)]
    return [segment for segment in segments if segment[0]] if closing not in first else None


def _spoilt(
    render: Callable[[list], str], messages: list[dict[str, str]], text: str, special_pattern: re.Pattern[str]
) -> list[Segment]:
    """Segments found by a private-use character in the place of the first one of every special token in a content."""
    used = set().union(*(value for message in messages for value in message.values()))
    spoiler = secrets.choice([char for char in map(chr, _PRIVATE_USE) if char not in used])
    spoilt_messages = _contents_mapped(messages, lambda one: special_pattern.sub(lambda m: spoiler + m[0][1:], one))
    if spoilt_messages == messages:
        return [(text, False)]
    spoilt = render(spoilt_messages)
    mended = "".join(true if char == spoiler else char for char, true in zip(spoilt, text))
    if mended != text or len(spoilt) != len(text):
        expected = "a template that writes a special token in a message as it stands"
        raise FormatError("chat_template", expected=expected, found="one that depends on it")
    segments, end = [], 0
    for place in (match.start() for match in re.finditer(spoiler, spoilt)):
        special = special_pattern.match(text, place)
        stop = special.end() if special else place + 1
        segments += [(text[end:place], False), (text[place:stop], True)]
        end = stop
    return [segment for segment in [*segments, (text[end:], False)] if segment[0]]
