"""How the next token is chosen, and when to stop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .errors import ParameterError, shown

_F32_MAX = 3.4028234e38


@dataclass(frozen=True)
class SamplingParams:
    """Fields of one request.

    max_tokens: at most this many new tokens, 1 to 2^31 - 1.
    temperature: 0 takes the most likely token; above 0 logits are divided by it before sampling.
    top_k: sample among the k most likely tokens; 0 for all.
    top_p: sample among the most likely tokens that together have this probability, in (0, 1] (Holtzman et al. 2020).
    min_p: leave out tokens less likely than this share of the most likely one, in [0, 1] (Nguyen et al. 2024).
    repetition_penalty: divides the positive logits of tokens that prompt or answer hold already and multiplies their
    negative ones, above 0; 1 does nothing (Keskar et al. 2019).
    presence_penalty: taken off the logit of a token that the answer holds already, -2 to 2.
    frequency_penalty: the same for each time that the answer holds it.
    seed: equal seeds give equal texts, whatever else runs beside them; 0 to 2^64 - 1.
    stop: strings that end the text; they are not part of it.
    ignore_eos: go on after an end-of-sequence token.
    n: completions of each prompt, 1 to 1024. The first is what n=1 gives; seeds of the others are derived from `seed`.
    logprobs: None, or how many alternatives to report with each token's log probability, 0 to 20. These are of the
    model's own distribution, before temperature, penalties and cuts.

    Raises ParameterError naming the field.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: str | tuple[str, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check("max_tokens", int, "an integer from 1 to 2147483647", lambda v: 1 <= v < 2**31)
        self._check("temperature", float, "a number from 0 to 3.4e38", lambda v: 0 <= v <= _F32_MAX)
        self._check("top_k", int, "an integer of at least 0", lambda v: 0 <= v < 2**31)
        self._check("top_p", float, "a number above 0, at most 1", lambda v: 0 < v <= 1)
        self._check("min_p", float, "a number from 0 to 1", lambda v: 0 <= v <= 1)
        self._check("repetition_penalty", float, "a number above 0, at most 3.4e38", lambda v: 0 < v <= _F32_MAX)
        self._check("presence_penalty", float, "a number from -2 to 2", lambda v: -2 <= v <= 2)
        self._check("frequency_penalty", float, "a number from -2 to 2", lambda v: -2 <= v <= 2)
        self._check("n", int, "an integer from 1 to 1024", lambda v: 1 <= v <= 1024)
        if self.logprobs is not None:
            self._check("logprobs", int, "None or an integer from 0 to 20", lambda v: 0 <= v <= 20)
        self._check("seed", int, "an integer from 0 to 2^64 - 1", lambda v: 0 <= v < 2**64)
        if not isinstance(self.ignore_eos, bool):
            raise ParameterError("ignore_eos", expected="True or False", found=shown(self.ignore_eos))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, (tuple, list)) or not all(isinstance(s, str) and s for s in stop):
            raise ParameterError("stop", expected="strings that are not empty", found=shown(self.stop))
        object.__setattr__(self, "stop", tuple(stop))

    def _check(self, name: str, kind: type, expected: str, valid) -> None:
        value = getattr(self, name)
        kinds = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, kinds) or not valid(value):
            raise ParameterError(name, expected=expected, found=shown(value))

    @classmethod
    def of(cls, params: SamplingParams | None, fields: dict[str, object]) -> SamplingParams:
        """`params` with some fields replaced. Raises ParameterError for a field that doesn't exist."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise ParameterError(name, expected="one of " + ", ".join(known), found="another name")
        if params is not None and not isinstance(params, cls):
            raise ParameterError("params", expected="SamplingParams", found=type(params).__name__)
        return dataclasses.replace(params or cls(), **fields)
