"""How the next token is chosen, and when to stop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from .errors import ParameterError, shown

_F32_MAX = 3.4028234e38


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


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
    min_tokens: so many new tokens come before one that ends the text.
    no_repeat_ngram_size: no run of so many tokens stands twice in prompt and answer; 0 for any.
    forced_bos_token_id, forced_eos_token_id: the first new token; the last, where max_tokens or the context is full.
    bad_words_ids: runs of tokens that never become complete.
    n_beams: above 1, beam search: of all continuations of so many beams the likeliest go on; temperature must be 0, and
    penalties, logprobs and stop strings are not for beams. n: how many of the texts found are given back, best first.
    length_penalty: a text's score is its log probability divided by (new tokens) ** length_penalty; above 0 favours
    long ones.
    early_stopping: when the search ends. True: as soon as there are n_beams texts; False: when the best beam, at its
    present length, would not beat the worst of them; "never": when it could not do so at any length.

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
    min_tokens: int = 0
    no_repeat_ngram_size: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    n_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False

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
        self._check_constraints()
        self._check_beams()

    def _check_constraints(self) -> None:
        for name in ("min_tokens", "no_repeat_ngram_size"):
            self._check(name, int, "an integer from 0 to 2147483647", lambda v: 0 <= v < 2**31)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if getattr(self, name) is not None:
                self._check(name, int, "None or a token id", _is_id)
        runs = self.bad_words_ids
        good = isinstance(runs, (tuple, list)) and all(isinstance(run, (tuple, list)) and run for run in runs)
        if not good or not all(_is_id(one) for run in runs for one in run):
            raise ParameterError("bad_words_ids", expected="lists of token ids that are not empty", found=shown(runs))
        object.__setattr__(self, "bad_words_ids", tuple(map(tuple, runs)))

    def _check_beams(self) -> None:
        self._check("n_beams", int, "an integer from 1 to 1024", lambda v: 1 <= v <= 1024)
        self._check("length_penalty", float, "a number from -1000 to 1000", lambda v: -1000 <= v <= 1000)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ParameterError("early_stopping", expected='True, False or "never"', found=shown(self.early_stopping))
        if self.n_beams == 1:
            return
        self._check("n", int, f"at most n_beams, {self.n_beams}", lambda v: v <= self.n_beams)
        plain = {"temperature": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
        for name, value in {**plain, "logprobs": None, "stop": ()}.items():
            if getattr(self, name) != value:
                raise ParameterError(name, expected=f"{value} beside beams", found=shown(getattr(self, name)))

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
