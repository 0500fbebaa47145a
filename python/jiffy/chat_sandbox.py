"""Chat templates come inside of model files, so nobody vouches for them: a jinja2 sandbox bounded in time and memory.

Nothing is run that can't be stopped in between. Every step of a loop and every operator, call, filter and test first
looks at the clock; what makes new strings or containers is charged for them, before it makes them where the result may
be far larger than its operands. So one operation costs what a few million characters cost, at most.
"""

from __future__ import annotations

import json
import operator
import re
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from types import CodeType
from typing import NoReturn

from jinja2 import Template, TemplateError, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from .errors import Error, FormatError, shown

MAX_TEMPLATE_CHARS = 1 << 16  # the longest of the well-known ones have 17,000; the worst compile in 2 s
_MAX_FORMAT_CHARS = 1 << 12
_MAX_WIDTH = 1000
_MAX_BITS = 4096
_MAX_NEEDLE = 64  # stripping and searching from the right take time len(text) * len(needle)
_WIDE = re.compile(r"%(\([^)]*\))?[-+ #0]*(\*|\d{4}|\d*\.(\*|\d{4}))")
_OPERATORS = {"+": operator.add, "*": operator.mul, "**": operator.pow, "%": operator.mod}
_FILTERS = {
    "abs", "batch", "capitalize", "center", "count", "d", "default", "dictsort", "e", "escape", "first", "float",
    "forceescape", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject",
    "rejectattr", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "title", "trim", "truncate",
    "unique", "upper", "urlencode", "wordcount",
}  # fmt: skip
_NARROW = {"batch", "center", "ljust", "rjust", "round", "slice", "truncate", "zfill"}
_SHORT_NEEDLE = {"strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition", "rsplit", "trim"}
_METHODS = {
    str: {
        "capitalize", "casefold", "center", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
        "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "join", "ljust",
        "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex", "rjust",
        "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase", "title",
        "upper", "zfill",
    },
    dict: {"copy", "get", "items", "keys", "values"},
    list: {"copy", "count", "index"},
    tuple: {"count", "index"},
}  # fmt: skip
_SCOPES = {"_loop_vars", "_block_vars"}  # jinja2 hands its own variables to every call
_SCALARS = (int, float, complex, bytes, range, set, frozenset, type(None))
_PLAIN = (*_METHODS, *_SCALARS, Undefined)


def render(template: str, variables: Mapping[str, object], seconds: float, max_chars: int) -> str:
    """The text of a template; at most `seconds` and `max_chars`, and a small multiple of max_chars in memory.

    Raises FormatError("chat_template") for whatever goes wrong, the template's own raise_exception included.
    """
    if len(template) > MAX_TEMPLATE_CHARS:
        _refuse(f"at most {MAX_TEMPLATE_CHARS} characters", str(len(template)))
    try:
        code = _compiled(template)
        sandbox = Sandbox(Meter(seconds, max_chars))
        program = Template.from_code(sandbox, code, sandbox.make_globals(None))
        return sandbox.concat(program.root_render_func(program.new_context(dict(variables))))
    except Error:
        raise
    except TemplateError as error:
        _refuse("a template that can render these messages", error.message or type(error).__name__)
    except Exception as error:
        _refuse("a template that can render these messages", f"{type(error).__name__}: {error}")


@lru_cache(maxsize=8)
def _compiled(template: str) -> CodeType:
    """The template as code that any Sandbox can run. Takes seconds at most, since its length is bounded."""
    sandbox = Sandbox(Meter(1.0, MAX_TEMPLATE_CHARS))
    return sandbox.compile(_Guard().visit(sandbox.parse(template)))


class Meter:
    """What a rendering has left: seconds until its deadline, and bytes to make values of."""

    def __init__(self, seconds: float, max_chars: int) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self.max_chars = max_chars
        self._max_weight = 16 * max_chars
        self._left = 64 * max_chars

    def tick(self) -> None:
        """Raises FormatError past the deadline."""
        if time.monotonic() > self._deadline:
            _refuse(f"a template that is done within {self._seconds:g} s", "one that still runs")

    def charge(self, n_bytes: int) -> None:
        """Takes bytes off the budget; FormatError if there are not enough."""
        self.tick()
        self._left -= n_bytes
        if self._left < 0:
            _refuse(f"a template that makes texts of {self.max_chars} characters", "one that needs far more memory")

    def keep(self, value: object) -> object:
        """The value, charged for itself and, as its elements were charged before, weighed with them."""
        if isinstance(value, str) and len(value) > self.max_chars:
            _refuse(f"texts of at most {self.max_chars} characters", str(len(value)))
        self.charge(sys.getsizeof(value))
        self.weigh(value)
        return value

    def weigh(self, value: object) -> int:
        """Bytes of a value as a tree: an element counts as often as it is found, as in printing and comparing."""
        weight, stack = 0, [value]
        while stack:
            item = stack.pop()
            weight += sys.getsizeof(item)
            if weight > self._max_weight:
                _refuse("values of moderate size", "a list or mapping that repeats itself")
            if isinstance(item, dict):
                stack.extend(item.keys())
                stack.extend(item.values())
            elif isinstance(item, (list, tuple, set, frozenset)):
                stack.extend(item)
            elif item is not value and not isinstance(item, _PLAIN):  # Python prints such by name and address
                _refuse("lists and mappings of plain values", f"a {type(item).__name__} in one")
        return weight


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox as chat templates expect it, with all that happens on a meter."""

    intercepted_binops = frozenset(_OPERATORS)

    def __init__(self, meter: Meter) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols, _Generation], cache_size=0
        )
        self.meter = meter
        self.tick, self.keep, self.finalize = meter.tick, meter.keep, self.text  # names that compiled templates call
        self.tests = {name: self._metered(test) for name, test in self.tests.items()}
        self.filters = {name: self._metered(FILTERS[name], name) for name in _FILTERS}
        self.filters |= {"attr": self.getattr, "format": self._percent, "indent": self._indent, "join": self._join}
        self.filters |= {"replace": self._replace, "string": self.text, "sum": self._sum, "tojson": self._tojson}
        del self.globals["lipsum"]
        self.globals |= {"dict": _new_dict, "raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def text(self, value: object) -> str:
        """A value as it is printed."""
        self.meter.tick()
        if not isinstance(value, _PLAIN):
            return f"<{type(value).__name__}>"
        self.meter.weigh(value)
        return str(value)

    def concat(self, parts: Iterable[str]) -> str:
        """All parts as one text; FormatError as soon as they are too long."""
        pieces, n_chars = [], 0
        for piece in parts:
            n_chars += len(piece)
            if n_chars > self.meter.max_chars:
                _refuse(f"a text of at most {self.meter.max_chars} characters", "a longer one")
            self.meter.tick()
            pieces.append(piece)
        return self.meter.keep("".join(pieces))

    def joined(self, *values: object) -> str:
        """The operator ~."""
        return self.concat(map(self.text, values))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """The operators that can make much out of little."""
        self.meter.tick()
        if operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        if operator == "*":
            self._check_product(left, right)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._check_bits(left.bit_length() * right)
        return self.meter.keep(_OPERATORS[operator](left, right))

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:
        """Calls a function, macro or method; the odd names leave every keyword to the template, as jinja2 does."""
        __self.meter.tick()
        for value in (*args, *(value for name, value in kwargs.items() if name not in _SCOPES)):
            __self.meter.weigh(value)
        return __self.meter.keep(super().call(__context, __obj, *args, **kwargs))

    def getattr(self, obj: object, attribute: str) -> object:
        """obj.attribute: plain values have the methods of _METHODS and no others."""
        self.meter.tick()
        kind = next((kind for kind in _METHODS if isinstance(obj, kind)), None)
        if kind is None and not isinstance(obj, _SCALARS):
            return super().getattr(obj, attribute)
        if kind is not None and attribute in _METHODS[kind]:
            return self._method(obj, attribute)
        if attribute in getattr(type(obj), "_fields", ()):
            return getattr(obj, attribute)
        try:
            return obj[attribute]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: object, argument: object) -> object:
        """obj[argument], or the attribute of that name."""
        self.meter.tick()
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, str):
                return self.getattr(obj, argument)
            return self.undefined(obj=obj, name=argument)

    def _method(self, obj: object, name: str) -> Callable:
        if isinstance(obj, str) and name in ("format", "join", "replace"):
            own = {"format": self._format, "join": lambda values: self._join(values, obj), "replace": self._replace}
            return own[name] if name == "join" else lambda *args, **kwargs: own[name](obj, *args, **kwargs)
        method = self._metered(lambda _, *args, **kwargs: getattr(obj, name)(*args, **kwargs), name)
        return lambda *args, **kwargs: method(obj, *args, **kwargs)

    def _metered(self, function: Callable, name: str = "") -> Callable:
        @wraps(function)
        def run(*args: object, **kwargs: object) -> object:
            self.meter.tick()
            for value in (*args[1:], *kwargs.values()):
                if name in _NARROW and isinstance(value, int) and value > _MAX_WIDTH:
                    _refuse(f"{name} of at most {_MAX_WIDTH}", shown(value))
                if name in _SHORT_NEEDLE and isinstance(value, str) and len(value) > _MAX_NEEDLE:
                    _refuse(f"{name} of at most {_MAX_NEEDLE} characters", str(len(value)))
            if name == "int" and isinstance(args[0], str) and len(args[0]) > _MAX_WIDTH:
                _refuse(f"numbers of at most {_MAX_WIDTH} digits", str(len(args[0])))
            result = self.meter.keep(function(*args, **kwargs))
            return self._ticking(result) if isinstance(result, Generator) else result

        return run

    def _ticking(self, values: Iterable[object]) -> Iterator[object]:
        """Lazy values, each of which is a step: filters may be stacked a thousand deep over a million values."""
        for value in values:
            self.meter.tick()
            yield value

    def _check_product(self, left: object, right: object) -> None:
        if isinstance(left, int) and isinstance(right, int):
            self._check_bits(left.bit_length() + right.bit_length())
        for value, times in ((left, right), (right, left)):
            if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                self.meter.charge(len(value) * max(times, 0))

    def _check_bits(self, n_bits: int) -> None:
        if n_bits > _MAX_BITS:
            _refuse(f"numbers of at most {_MAX_BITS} bits", f"one of {n_bits}" if n_bits < 1 << 64 else "a larger one")

    def _check_format(self, text: str, sign: str, values: object) -> None:
        if len(text) > _MAX_FORMAT_CHARS or _WIDE.search(text):
            _refuse(f"a format of {_MAX_FORMAT_CHARS} characters and widths below {_MAX_WIDTH}", shown(text))
        self.meter.charge(text.count(sign) * (self.meter.weigh((values,)) + _MAX_WIDTH))

    def _percent(self, text: str, *args: object, **kwargs: object) -> str:
        """text % values, for the operator and the filter `format`."""
        values = kwargs or (args[0] if len(args) == 1 and isinstance(args[0], (tuple, dict)) else args)
        self._check_format(text, "%", values)
        return self.meter.keep(text % values)

    def _format(self, text: str, *args: object, **kwargs: object) -> str:
        self._check_format(text, "{", (args, kwargs))
        return self.meter.keep(_Formatter(self).vformat(text, args, kwargs))

    def _indent(self, text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        n_chars = len(width) if isinstance(width, str) else width
        self.meter.charge((text.count("\n") + 1) * max(n_chars, 0))
        return self.meter.keep(FILTERS["indent"](text, width, first, blank))

    def _join(self, values: Iterable, d: str = "", attribute: str | int | None = None) -> str:
        get = make_attrgetter(self, attribute) if attribute is not None else lambda item: item
        glue = self.text(d)

        def parts() -> Iterable[str]:
            for i, item in enumerate(values):
                yield glue if i else ""
                yield self.text(get(item))

        return self.concat(parts())

    def _replace(self, text: object, old: object, new: object, count: int | None = None) -> str:
        text, old, new = self.text(text), self.text(old), self.text(new)
        self.meter.charge((text.count(old) if count is None or count < 0 else count) * len(new))
        return self.meter.keep(text.replace(old, new, -1 if count is None else count))

    def _sum(self, values: Iterable, attribute: str | int | None = None, start: object = 0) -> object:
        get = make_attrgetter(self, attribute) if attribute is not None else lambda item: item
        for item in values:
            start = self.call_binop(None, "+", start, get(item))
        return start

    def _tojson(self, value: object, ensure_ascii: bool = False, indent: int | str | None = None,
                separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:  # fmt: skip
        """JSON without the HTML escapes of jinja2's own filter."""
        if indent is not None and (len(indent) if isinstance(indent, str) else indent) > _MAX_NEEDLE:
            _refuse(f"an indent of at most {_MAX_NEEDLE}", shown(indent))
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(encoder.iterencode(value))


class _Guard(NodeTransformer):
    """Puts the operations that jinja2 compiles to bare Python on the meter."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        self.generic_visit(node)
        return _call("joined", node.nodes, node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _call("keep", [node], node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _call("keep", [node], node.lineno) if node.ctx == "load" else node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Call:
        self.generic_visit(node)
        return _call("keep", [node], node.lineno)

    visit_Dict = visit_List


class _Generation(Extension):
    """{% generation %} marks what a model is trained on; for rendering it is a scope and nothing else."""

    tags = frozenset({"generation"})

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: object, format_spec: str) -> str:
        if re.search(r"\d{4}", format_spec):  # only now, since "{:{}}" takes the width from an argument
            _refuse(f"widths below {_MAX_WIDTH}", shown(format_spec))
        return super().format_field(value, format_spec)


def _call(name: str, args: list[nodes.Expr], lineno: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), args, [], None, None, lineno=lineno)


def _new_dict(*args: object, **kwargs: object) -> dict:
    """`dict` as a function, since the type would bring its class methods."""
    return dict(*args, **kwargs)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _MAX_NEEDLE:
        _refuse(f"a date format of at most {_MAX_NEEDLE} characters", str(len(pattern)))
    return datetime.now().strftime(pattern)


def _refuse(expected: str, found: str) -> NoReturn:
    raise FormatError("chat_template", expected=expected, found=found) from None
