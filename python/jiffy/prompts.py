"""What callers give - texts, token ids, chats - as prompts that fit the context."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from .chat import Message, encode_chat
from .errors import ContextOverflow, ParameterError, Unsupported, shown
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """Token ids that fit. n_truncated: how many were left out.

    source: the tokens that an encoder reads first. max_tokens: how many new ones there may be, None for as many as the
    request's parameters say.
    """

    ids: list[int]
    n_truncated: int = 0
    source: list[int] = field(default_factory=list)
    max_tokens: int | None = None


@dataclass(frozen=True)
class Fit:
    """What is done with a prompt that is too long, and how many tokens its answer may have.

    overflow: "error" raises ContextOverflow for a prompt that doesn't fit the context; "truncate" leaves out the oldest
    part, so that prompt and answer fit, where at most half of the context is set aside for the answer.
    Raises ParameterError for another word.
    """

    overflow: str
    context: int
    max_tokens: int

    def __post_init__(self) -> None:
        if not isinstance(self.overflow, str) or self.overflow not in ("error", "truncate"):
            raise ParameterError("overflow", expected='"error" or "truncate"', found=shown(self.overflow))

    @property
    def limit(self) -> int:
        """Tokens that a prompt may have. The answer's last token is never computed and needs no position."""
        if self.overflow == "error":
            return self.context
        return self.context + 1 - min(self.max_tokens, max(self.context // 2, 1))


@dataclass(frozen=True)
class PromptReader:
    """Checks all that can be wrong with a prompt: nothing of a call starts before all of it is known to be good."""

    tokenizer: Tokenizer
    vocab_size: int
    context: int

    def read(
        self, prompt: object, token_ids: object, *, fit: Fit, parse_special: bool = False
    ) -> tuple[list[Prompt], bool]:
        """The prompts of a call with exactly one of prompt and token_ids, and whether it gave just one, not a list."""
        if (prompt is None) == (token_ids is None):
            found = "neither" if prompt is None else "both"
            raise ParameterError("prompt", expected="exactly one of prompt and token_ids", found=found)
        if prompt is not None:
            single = isinstance(prompt, str)
            texts = [prompt] if single else prompt
            if not isinstance(texts, (list, tuple)):
                raise ParameterError("prompt", expected="a text or a list of texts", found=type(prompt).__name__)
            all_ids = [self.tokenizer.encode(text, parse_special=parse_special) for text in texts]
        else:
            if not isinstance(token_ids, (list, tuple)):
                raise ParameterError("token_ids", expected="a list of integers", found=type(token_ids).__name__)
            single = not token_ids or not isinstance(token_ids[0], (list, tuple))
            all_ids = [token_ids] if single else token_ids
        return [self._fitted(self.checked(ids), fit) for ids in all_ids], single

    def chat(self, messages: list[Message], *, fit: Fit) -> Prompt:
        """A chat in the model's template. To truncate one drops its oldest turns, as `drop_turns` does."""
        whole = encode_chat(self.tokenizer, messages)
        if fit.overflow == "error" or len(whole) <= fit.limit:
            return self._fitted(self.checked(whole), fit)
        kept = drop_turns(messages, lambda rest: len(encode_chat(self.tokenizer, rest)) <= fit.limit)
        ids = self.checked(encode_chat(self.tokenizer, kept))
        if len(ids) > fit.limit:
            expected = f"at most {fit.limit} tokens in the newest turn with the system message"
            raise ContextOverflow("messages", expected=expected, found=str(len(ids)))
        return Prompt(ids, len(whole) - len(ids))

    def to_score(self, text: object, token_ids: object, add_bos: bool | None, parse_special: bool) -> list[int]:
        """The token ids that `Model.score` is about."""
        if add_bos is not None and not isinstance(add_bos, bool):
            raise ParameterError("add_bos", expected="True, False or None", found=shown(add_bos))
        if (text is None) == (token_ids is None):
            found = "neither" if text is None else "both"
            raise ParameterError("text", expected="exactly one of text and token_ids", found=found)
        ids = token_ids
        if text is not None:
            ids = self.tokenizer.encode(text, add_bos=add_bos is not False, parse_special=parse_special)
        ids = self.checked(ids)
        if add_bos and ids[0] != self.tokenizer.bos_id:
            if self.tokenizer.bos_id is None:
                raise Unsupported("add_bos", expected="a tokenizer with a bos token", found="none")
            ids.insert(0, self.tokenizer.bos_id)
        if len(ids) < 2:
            raise ParameterError("text", expected="at least two tokens: nothing stands before the first", found="one")
        return ids

    def checked(self, ids: object) -> list[int]:
        """Token ids as a list. Raises ParameterError for what is no token of the model, and for none at all."""
        if not isinstance(ids, (list, tuple)):
            raise ParameterError("token_ids", expected="a list of integers", found=type(ids).__name__)
        if not ids:
            raise ParameterError("prompt", expected="at least one token", found="none")
        for i, token in enumerate(ids):
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.vocab_size:
                expected = f"an integer from 0 to {self.vocab_size - 1}"
                raise ParameterError(f"token_ids[{i}]", expected=expected, found=shown(token))
        return list(ids)

    def fitting(self, ids: list[int]) -> list[int]:
        """The ids themselves. Raises ContextOverflow if they are more than the context holds."""
        if len(ids) > self.context:
            expected = f"at most {self.context} tokens, the context"
            raise ContextOverflow("prompt", expected=expected, found=str(len(ids)))
        return ids

    def _fitted(self, ids: list[int], fit: Fit) -> Prompt:
        """Without the oldest tokens, if need be; a bos that the tokenizer puts before every text stays."""
        n_truncated = max(len(ids) - fit.limit, 0)
        if fit.overflow == "error" or not n_truncated:
            return Prompt(self.fitting(ids))
        n_bos = int(fit.limit > 1 and self.tokenizer.add_bos and ids[0] == self.tokenizer.bos_id)
        return Prompt(ids[:n_bos] + ids[n_bos + n_truncated :], n_truncated)


def drop_turns(messages: list[Message], fits: Callable[[list[Message]], bool]) -> list[Message]:
    """The messages without as few of the oldest turns as must go for the rest to fit.

    A turn is what a user says and all that comes before the user speaks again. System messages stay, and so does the
    newest turn, whether it fits or not.
    """
    turns = _turns(messages)

    def rest(first: int) -> list[Message]:
        return [m for m, turn in zip(messages, turns, strict=True) if turn >= first or m["role"] == "system"]

    newest = turns[-1]
    return rest(bisect_left(range(newest), True, key=lambda first: fits(rest(first))))


def _turns(messages: list[Message]) -> list[int]:
    """The turn of each message: each message of a user begins one, but the first, which what stands before it joins."""
    turns, turn, seen = [], 0, False
    for message in messages:
        if message["role"] == "user":
            turn += seen
            seen = True
        turns.append(turn)
    return turns
