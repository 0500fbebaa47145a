"""jinja2's immutable sandbox, bounded: a chat template is a program that came with a file that nobody vouches for.

The sandbox of jinja2 keeps a template from Python's objects, not from looping for ever or from asking C code for
gigabytes. Here every loop turn, call, filter and operator counts against a `Budget`, in the caller's own thread, and
what can make large values out of small ones (`*`, `**`, `%`, `+`, `~`, str.replace, str.join, str.format, filters) is
sized first. What can't be sized is left out, so that a template that uses it fails: padding methods such as str.center,
and the filters not in _FILTERS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial, wraps
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .template_budget import Budget, Spent

def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILTERS = _words(
    "abs attr capitalize count d default dictsort e escape first float forceescape groupby items last length list "
    "lower map max min reject rejectattr reverse safe select selectattr sort string title trim unique upper urlencode "
    "wordcount"
)
_ITERATING = _words("groupby list map max min reject rejectattr select selectattr sort unique")

_METHODS = {  # all that a template may call or read of these types; other types have jinja2's rules
    str: _words(
        "capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit isidentifier "
        "islower isnumeric isprintable isspace istitle isupper join lower lstrip partition removeprefix removesuffix "
        "replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
    ),
    dict: _words("copy get items keys values"),
    (list, tuple): _words("copy count index"),
    float: _words("is_integer"),
    (int, bytes, type): _words(""),
}

_MAX_FORMAT_CHARS = 10_000
_MAX_WIDTH = 999
_PRINTF_WIDTH = re.compile(r"%(\([^)]*\))?[^a-zA-Z%]*(\d{4}|\*)")
_FORMAT_WIDTH = re.compile(r"\{[^{}]*(\{|:[^{}]*\d{4})")
_MAX_INDENT = 16
_MAX_DIGITS = 4300  # Python's own limit since 3.10.7; before, reading n digits takes n * n steps


class Refused(Exception):
    """A template called raise_exception."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The environment of one rendering: the whitespace rules, extensions and globals that transformers gives to chat
    templates, within a budget. Any exception can come out of it."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationBlock],
            finalize=self._output,
            optimized=False,
            cache_size=0,
        )
        self.globals = {
            "range": self.globals["range"],
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }
        own = ("format", "indent", "int", "join", "replace", "round", "sum", "tojson")
        filters = {name: FILTERS[name] for name in _FILTERS} | {name: getattr(self, f"_{name}") for name in own}
        self.filters = {name: self._bounded(name, function) for name, function in filters.items()}
        self.filters |= {_STEPS: budget.steps, _SIZED: self._sized, _CONCAT: self._concat}

    def program(self, source: str) -> jinja2.Template:
        """Compiles a template."""
        tree = _Bounding().visit(self.parse(source))
        tree.set_environment(self)
        return jinja2.Template.from_code(self, self.compile(tree), self.globals)

    def concat(self, pieces: Iterable[str]) -> str:
        """jinja2 joins the output of the template, of macros and of blocks with this."""
        kept, total = [], 0
        for piece in pieces:
            kept.append(piece)
            total += len(piece)
            self.budget.room(total)
        return self.budget.kept("".join(kept))

    def call(self, context: Context, obj: Callable, /, *args: object, **kwargs: object) -> object:
        self.budget.step()
        self.budget.room(sum(map(self.budget.weight, (*args, *kwargs.values()))))
        owner = getattr(obj, "__self__", None)
        if isinstance(obj, LoopContext):
            args = tuple(map(self.budget.steps, args))
        elif isinstance(owner, str) and obj.__name__ == "replace":
            obj = partial(self._replaced, owner)
        elif isinstance(owner, str) and obj.__name__ == "join":
            obj = partial(self._joined, owner)
        return self.budget.kept(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context | None, operator: str, left: object, right: object) -> object:
        self.budget.step()
        if operator == "%" and isinstance(left, str):
            self._check_fields(left, "%", _PRINTF_WIDTH, right)
        elif operator == "+" and isinstance(left, (str, list, tuple)):
            self.budget.room(self.budget.weight(left) + self.budget.weight(right) - 2)
        elif operator == "*":
            self._check_product(left, right)
            self._check_product(right, left)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self.budget.bits(left.bit_length() * right)
        return self.budget.kept(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        for types, allowed in _METHODS.items():
            if isinstance(obj, types):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: object) -> Callable[..., str] | None:
        sandboxed = super().wrap_str_format(value)
        if sandboxed is None:
            return None

        def bounded(*args: object, **kwargs: object) -> str:
            text = value.__self__.replace("{{", "").replace("}}", "")
            self._check_fields(text, "{", _FORMAT_WIDTH, [*args, *kwargs.values()])
            return sandboxed(*args, **kwargs)

        return bounded

    def _bounded(self, name: str, function: Callable) -> Callable:
        """A filter that counts as a step, as do the values that it iterates over."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def bounded(*args: object, **kwargs: object) -> object:
            self.budget.step()
            if name in _ITERATING and args[first]:  # None and undefined values have no steps, and jinja2 accepts them
                args = (*args[:first], self.budget.steps(args[first]), *args[first + 1 :])
            return self.budget.kept(function(*args, **kwargs))

        return bounded

    def _output(self, value: object) -> str:
        self.budget.step()
        return value if isinstance(value, str) else self.budget.kept(str(value))

    def _sized(self, value: object) -> object:
        self.budget.weight(value)
        return value

    def _concat(self, values: Iterable[object]) -> str:
        return self._joined("", map(str, values))

    def _check_product(self, values: object, times: object) -> None:
        if isinstance(values, (str, list, tuple)) and isinstance(times, int):
            self.budget.room(self.budget.weight(values) * times)
        elif isinstance(values, int) and isinstance(times, int):
            self.budget.bits(values.bit_length() + times.bit_length())

    def _check_fields(self, text: str, mark: str, wide: re.Pattern[str], values: object) -> None:
        """A format string may write each value in every field."""
        if len(text) > _MAX_FORMAT_CHARS or wide.search(text):
            raise Spent(f"formats of at most {_MAX_FORMAT_CHARS} characters and widths of {_MAX_WIDTH}", "more")
        self.budget.room(len(text) + text.count(mark) * (_MAX_WIDTH + self.budget.weight(values)))

    def _replaced(self, text: str, old: str, new: str, count: int = -1) -> str:
        times = text.count(old) if count < 0 else min(text.count(old), count)
        self.budget.room(len(text) + times * (len(new) - len(old)))
        return text.replace(old, new, count)

    def _joined(self, separator: str, values: Iterable[str]) -> str:
        values = list(self.budget.steps(values))
        self.budget.room(sum(map(len, values)) + len(separator) * len(values))
        return separator.join(values)

    def _format(self, text: object, *args: object, **kwargs: object) -> object:
        return self.call_binop(None, "%", str(text), kwargs or args)

    def _indent(self, text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(text)
        self.budget.room(len(text) + (text.count("\n") + 1) * (len(width) if isinstance(width, str) else width))
        return FILTERS["indent"](text, width, first, blank)

    def _int(self, value: object, default: int = 0, base: int = 10) -> int:
        if isinstance(value, str) and len(value) > _MAX_DIGITS:
            raise Spent(f"numbers of at most {_MAX_DIGITS} digits", "more")
        return FILTERS["int"](value, default, base)

    def _join(self, values: Iterable[object], separator: object = "", attribute: str | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return self._joined(str(separator), map(str, values))

    def _replace(self, text: object, old: object, new: object, count: int | None = None) -> str:
        return self._replaced(str(text), str(old), str(new), -1 if count is None else count)

    def _round(self, value: float, precision: int = 0, method: str = "common") -> float:
        self.budget.bits(4 * abs(precision))  # "ceil" and "floor" multiply by 10 ** precision
        return FILTERS["round"](value, precision, method)

    def _sum(self, values: Iterable, attribute: str | None = None, start: float = 0) -> float:
        if not isinstance(start, (int, float)):  # lists would be copied for every one that is added
            raise Spent("a sum of numbers", type(start).__name__)
        return FILTERS["sum"](self, self.budget.steps(values), attribute, start)

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON without the escapes that jinja2 adds for HTML."""
        if not (indent is None or (isinstance(indent, int) and indent <= _MAX_INDENT)):
            raise Spent(f"indents of at most {_MAX_INDENT} spaces", "more")
        self.budget.room(sum(map(len, separators or ())) * self.budget.weight(value))
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(self.budget.steps(encoder.iterencode(value)))


class _Namespace(Namespace):
    """Prints short: namespaces that hold each other would print for ever. As in transformers, no private names."""

    def __init__(*args: object, **kwargs: object) -> None:
        self, args = args[0], args[1:]
        Namespace.__init__(self, dict(*args, **kwargs))
        for name in dict(*args, **kwargs):
            _Namespace._check_name(name)

    def __setitem__(self, name: str, value: object) -> None:
        _Namespace._check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<Namespace>"

    @staticmethod
    def _check_name(name: object) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"the namespace attribute {name!r} is private")


class _GenerationBlock(Extension):
    """{% generation %}...{% endgeneration %} marks what a model wrote, for training; it renders as its content."""

    tags = frozenset(("generation",))

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# The space keeps templates from naming these filters.
_STEPS, _SIZED, _CONCAT = "jiffy steps", "jiffy sized", "jiffy concat"


class _Bounding(NodeTransformer):
    """Puts the budget where jinja2 has no hook: loops, `~`, slices, and literals that hold other values."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        node = self.generic_visit(node)
        node.iter = _filtered(node.iter, _STEPS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        node = self.generic_visit(node)
        return _filtered(node, _SIZED) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filtered(self.generic_visit(node), _SIZED)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), _SIZED)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        node = self.generic_visit(node)
        return _filtered(node, _SIZED) if node.ctx == "load" else node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))
