"""Tracing: an architecture's function calls the ops of a `Trace`, which writes them down as a flat program.

Nothing is computed here. bf16 and integer weights need activations of their own kind: the trace adds one `quantize` for
each distinct kind among the consumers of a value. Fusion happens natively, later.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from . import _core
from .errors import ParameterError, shown

if TYPE_CHECKING:
    import numpy as np

    from .rope import RopeTables

_F32 = _core.RowFormat()


@dataclass(frozen=True)
class Node:
    """A traced value: rows of `width` numbers, stored as `format`, one a token or one an output."""

    index: int
    width: int
    space: _core.Space = _core.Space.tokens
    format: _core.RowFormat = _F32


@dataclass(frozen=True)
class Traced:
    """A program and the trace that it came from. build: makes the program when it is first asked for."""

    trace: Trace
    build: Callable[[], _core.Program]

    @cached_property
    def program(self) -> _core.Program:
        return self.build()


@dataclass
class Trace:
    """The program under construction. Each method appends an instruction and returns its result."""

    values: list[_core.Value] = field(default_factory=list)
    parameters: list[tuple[str, object]] = field(default_factory=list)
    instructions: list[_core.Instruction] = field(default_factory=list)
    marks: dict[str, Node] = field(default_factory=dict)  # values with a name, in program order
    _parameter_index: dict[int, int] = field(default_factory=dict)  # id(parameter) -> index: a tied matrix is one
    _quantized: dict[tuple[int, _core.RowFormat, bool], Node] = field(default_factory=dict)  # by value, format, rotated

    @classmethod
    def of(cls, program: _core.Program, marks: list[tuple[str, int]], parameters: list[tuple[str, object]]) -> Trace:
        """The trace that became `program`, over its parameters; marks: names of values, by index."""
        values = program.values
        nodes = {name: Node(i, values[i].width, values[i].space, values[i].format) for name, i in marks}
        return cls(values, parameters, program.instructions, nodes)

    def used(self) -> list[object]:
        """The parameters that instructions ask for; programs of one packed file list those of the others, too."""
        indices = dict.fromkeys(p for at in self.instructions for p in at.parameters if p >= 0)
        return [self.parameters[p][1] for p in indices]

    def branch(self) -> Trace:
        """A trace that has begun as this one has: programs that end in different ways share their parameters."""
        copied = (copy(value) for value in (self.values, self.parameters, self.instructions, self.marks))
        return Trace(*copied, copy(self._parameter_index), copy(self._quantized))

    def embedding(self, table: _core.Weight | np.ndarray, by: str = "tokens", scale: float = 1.0) -> Node:
        """Rows of table [any, dim], one for each token of the batch: by its id ("tokens"), by its type ("types") or by
        its position within its sequence ("positions"). scale: what rows of a packed table are multiplied by."""
        width = table.cols if hasattr(table, "cols") else table.shape[1]
        factor = {} if scale == 1.0 else {"scale": scale}
        return self._emit(_core.OpKind.embedding, [], width, [table], indices=getattr(_core.Indices, by), **factor)

    def rms_norm(self, x: Node, weight: np.ndarray, eps: float) -> Node:
        """x / sqrt(mean(x^2) + eps) * weight."""
        return self._emit(_core.OpKind.rms_norm, [x], x.width, [weight], eps=eps)

    def layer_norm(self, x: Node, weight: np.ndarray, bias: np.ndarray | None, eps: float) -> Node:
        """(x - mean(x)) / sqrt(variance(x) + eps) * weight (+ bias)."""
        return self._emit(_core.OpKind.layer_norm, [x], x.width, [weight, bias], eps=eps)

    def linear(self, x: Node, weight: _core.Weight, bias: np.ndarray | None = None, rotated: bool = False) -> Node:
        """x weight^T (+ bias), weight [out, in]; rotated: weight is, as `weights.rotate` does it, and so must x be."""
        x = self._stored_as(weight.activations, x, rotated)
        return self._emit(_core.OpKind.matmul, [x], weight.rows, [weight, bias])

    def rope(self, x: Node, tables: RopeTables, *, n_heads: int) -> Node:
        """Rotates each head of x by the position of its row."""
        parameters = [tables.cosines, tables.sines]
        return self._emit(_core.OpKind.rope, [x], x.width, parameters, n_heads=n_heads, head_dim=x.width // n_heads)

    def attention(
        self,
        q: Node,
        k: Node,
        v: Node,
        *,
        layer: int,
        n_heads: int,
        n_kv_heads: int,
        window: int = 0,
        causal: bool = True,
        scale: float | None = None,
        bias: np.ndarray | None = None,
    ) -> Node:
        """Stores k and v in the cache of `layer`, then attends over it, to the positions up to a token's own or, if not
        causal, to all of its sequence. A layer may be written again when nobody reads it any more; such a program, as
        one that isn't causal, takes whole sequences alone (`_core.Encoder`).

        window: how many positions a token sees on a side, its own among them; 0 for all. scale: of the products of q
        and k, None for 1 / sqrt(head_dim). bias: [n_heads, 2 * reach + 1], added to the scaled products by the distance
        key - query, which is clipped to +-reach.
        """
        shape = {"layer": layer, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "head_dim": q.width // n_heads}
        self._append(_core.OpKind.kv_write, [k, v], [], [], **shape)
        sight = {"window": window, "causal": causal, "scale": shape["head_dim"] ** -0.5 if scale is None else scale}
        parameters = [] if bias is None else [bias]
        return self._emit(_core.OpKind.attention, [q], q.width, parameters, **sight, **shape)

    def cross_attention(self, q: Node, *, layer: int, n_heads: int, scale: float | None = None) -> Node:
        """Attends to the whole of the source text, whose keys and values for this layer an encoder has made."""
        head_dim = q.width // n_heads
        scale = head_dim**-0.5 if scale is None else scale
        shape = {"layer": layer, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}
        return self._emit(_core.OpKind.attention, [q], q.width, [], scale=scale, cross=True, **shape)

    def ssru(self, forget: Node, x: Node, *, layer: int) -> Node:
        """max(c, 0), where c = s * (c of the token before) + (1 - s) * x, s = sigmoid(forget) (Kim et al. 2019)."""
        return self._emit(_core.OpKind.ssru, [forget, x], x.width, [], layer=layer)

    def add(self, a: Node, b: Node) -> Node:
        return self._emit(_core.OpKind.add, [a, b], a.width, [])

    def mul(self, a: Node, b: Node) -> Node:
        return self._emit(_core.OpKind.mul, [a, b], a.width, [])

    def activation(self, x: Node, name: str) -> Node:
        """f(x), element by element: "relu", "tanh", "silu", or "gelu" and "gelu_tanh" as `gelu` has them."""
        if name.startswith("gelu"):
            return self.gelu(x, "tanh" if name == "gelu_tanh" else "none")
        return self._emit(_core.OpKind.activation, [x], x.width, [], function=getattr(_core.Function, name))

    def silu_mul(self, gate: Node, up: Node) -> Node:
        """silu(gate) * up."""
        return self._emit(_core.OpKind.silu_mul, [gate, up], up.width, [])

    def gelu(self, x: Node, approximate: str = "none") -> Node:
        """x Phi(x); approximate "tanh": by Hendrycks and Gimpel's formula. Raises ParameterError for other names."""
        if approximate not in ("none", "tanh"):
            raise ParameterError("approximate", expected="none or tanh", found=shown(approximate))
        return self._emit(_core.OpKind.gelu, [x], x.width, [], tanh=approximate == "tanh")

    def select(self, x: Node) -> Node:
        """The rows whose logits are asked for."""
        return self._emit(_core.OpKind.select, [x], x.width, [], space=_core.Space.outputs)

    def pool(self, x: Node, pooling: str) -> Node:
        """One row for each sequence: the "mean" of its rows, their largest elements ("max"), the "first", the "last".
        Takes whole sequences, as attention that isn't causal does."""
        kind = getattr(_core.Pooling, pooling)
        return self._emit(_core.OpKind.pool, [x], x.width, [], space=_core.Space.outputs, pooling=kind)

    def mark(self, name: str, x: Node) -> Node:
        """Names a value that one part of the model hands to the next, so that `jiffy check` can look at it. A later
        part may read no other value of an earlier one; the result is marked last. A value has the last of its names."""
        self.marks = {other: node for other, node in self.marks.items() if node.index != x.index}
        self.marks[name] = x
        return x

    def build(self, result: Node, context_length: int) -> _core.Program:
        """Validates the whole program. Raises FormatError naming the instruction and the parameter."""
        return _core.Program(self.values, self.parameters, self.instructions, result.index, context_length)

    def traced(self, result: Node, context_length: int) -> Traced:
        return Traced(self, lambda: self.build(result, context_length))

    def _stored_as(self, row_format: _core.RowFormat, x: Node, rotated: bool) -> Node:
        if x.format == row_format:
            return x
        key = (x.index, row_format, rotated)
        if key not in self._quantized:
            op = _core.OpKind.rotate_quantize if rotated else _core.OpKind.quantize
            self._quantized[key] = self._emit(op, [x], x.width, [], row_format=row_format)
        return self._quantized[key]

    def _emit(self, op, inputs, width, parameters, *, space=None, row_format=_F32, **attributes) -> Node:
        if space is None:
            space = inputs[0].space if inputs else _core.Space.tokens
        node = Node(len(self.values), width, space, row_format)
        self.values.append(_core.Value(space, width, row_format))
        self._append(op, inputs, [node], parameters, **attributes)
        return node

    def _append(self, op, inputs, outputs, parameters, **attributes) -> None:
        indices = [-1 if p is None else self._index_of(p) for p in parameters]
        values = [n.index for n in inputs], [n.index for n in outputs]
        self.instructions.append(_core.Instruction(op, *values, indices, **attributes))

    def _index_of(self, parameter) -> int:
        if id(parameter) not in self._parameter_index:
            self._parameter_index[id(parameter)] = len(self.parameters)
            name = getattr(parameter, "name", f"parameter {len(self.parameters)}")
            self.parameters.append((name, parameter))
        return self._parameter_index[id(parameter)]
