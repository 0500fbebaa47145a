"""Chat templates: text within its bounds or an error, soon, and nothing of Python's own shows."""

from __future__ import annotations

import random
import re
from pathlib import Path

from jiffy.chat import render_chat

_MAX_CHARS = 1 << 16
_MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "a<b>\n{{ x }}"}]
_TOKEN = re.compile(r"\{[{%]-?|-?[}%]\}|\w+|'[^']*'|\s+|.", re.DOTALL)
_SEEDS = [
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}{{ bos_token }}",
    "{%- set ns = namespace(n=0) -%}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 1 %}"
    "{{ loop.index }}{% else %}{{ raise_exception('no') }}{% endfor %}{{ ns.n ** 9 * 'ab' }}",
    "{% macro f(x, y=2) %}{{ x }}{{ caller() if caller }}{% endmacro %}{% call f(1) %}c{% endcall %}{{ f([1] * 3) }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages[0] | tojson(indent=2) }}{{ 'a%5sb' % 'x' }}",
    "{{ 'x'.join(['a', 'b']) ~ 'ab'.replace('a', 'c').format(1) }}{{ '{0:>5}{a}'.format(1, a=2) }}",
    "{% if add_generation_prompt is defined and eos_token not in 'x' %}{{ strftime_now('%Y') }}{% endif %}",
    "{% set x %}{{ 'q' | indent(3) }}{% endset %}{{ dict(a=x) | items | list }}{{ x | replace('q', 'r') | batch(2) }}",
    "{% for i in range(3) recursive %}{{ loop(range(i)) }}{% if i %}{% continue %}{% endif %}{% endfor %}",
    "{% generation %}{{ joiner(',')() }}{% endgeneration %}{{ messages | groupby('role') }}{{ self | attr('x') }}",
    "{{ range(9) | sum }}{{ (1, 2)[::-1] }}{{ cycler(1, 2).next() }}",
]
_PIECES = sorted({token for seed in _SEEDS for token in _TOKEN.findall(seed)})
_PIECES += [
    "**",
    "1000000000",
    "-1",
    "[]",
    "{}",
    "none",
    "__class__",
    "block",
    "extends",
    "include",
    "import",
    "filter",
]


def seeds() -> list[bytes]:
    return [seed.encode() for seed in _SEEDS]


def one(data: bytes, folder: Path) -> None:
    template = data.decode(errors="replace")
    text = render_chat(template, _MESSAGES, bos_token="<s>", eos_token="</s>", seconds=0.5, max_chars=_MAX_CHARS)
    assert len(text) <= _MAX_CHARS
    assert "0x" in template or " at 0x" not in text, text


def mutated(data: bytes, max_size: int, rng: random.Random) -> bytes:
    """Takes out, doubles, exchanges or puts in a few tokens."""
    tokens = _TOKEN.findall(data.decode(errors="replace"))
    for _ in range(rng.randint(1, 4)):
        at, n = rng.randint(0, len(tokens)), rng.choice([0, 0, 1, 1, 2, 5])
        start = rng.randint(0, len(tokens))
        new = [rng.choice(_PIECES)] if rng.random() < 0.6 else tokens[start : start + rng.randint(1, 8)]
        tokens[at : at + n] = new
    return "".join(tokens).encode()[:max_size]
