"""How the time of a step shrinks with lanes, on paper: bytes, operations, uneven shares, barriers.

What an instruction of one kind takes on p lanes is its time as measured on the machine at hand, times the ratio of the
least that it could take on p lanes and on those measured. The least is what the lane with the largest share needs for
its bytes or its operations, or what the memory channels need for all bytes: matrices are dealt out in slabs of 16 rows,
attention by KV heads and 16 rows of queries. Each instruction ends with a barrier.
"""

from __future__ import annotations

from dataclasses import dataclass

from jiffy.bench.measuring import Figure, OpTime
from jiffy.config import Config

SLAB_ROWS = 16
_ATTENTION_ROWS = 16  # query heads times tokens in a piece of attention (csrc/ops/attention.cc)
_PIECES_A_LANE = 8  # of a matrix (csrc/ops/matmul.cc)


@dataclass(frozen=True)
class Machine:
    """lane_*: of one lane, bytes/s and operations/s. most_bandwidth: of all memory channels. barrier: seconds between
    two lanes; lane_arrival: seconds that each further lane adds."""

    lane_bandwidth: float
    most_bandwidth: float
    lane_peaks: dict[str, float]
    barrier: float
    lane_arrival: float

    def barrier_seconds(self, lanes: int) -> float:
        return 0.0 if lanes == 1 else self.barrier + (lanes - 2) * self.lane_arrival

    def least(self, op: OpTime, lanes: int, unevenness: float = 1.0) -> float:
        """Seconds until the lane with the largest share, `unevenness` times the average one, is done."""
        peak = self.lane_peaks[op.arithmetic] or self.lane_peaks["f32"]
        lane = max(op.bytes / self.lane_bandwidth, op.operations / peak) * unevenness / lanes
        return max(op.bytes / self.most_bandwidth, lane)


@dataclass(frozen=True)
class Expected:
    """seconds of a step on so many lanes; of those, in barriers, lost to uneven shares, and in the rest, which is
    neither matmul nor attention. limit_share: the least that its bytes and operations take, over all of them."""

    lanes: int
    seconds: float
    barriers: float
    uneven: float
    rest: float
    limit_share: float


def expected(figure: Figure, rows: int, config: Config, machine: Machine, measured_lanes: int, lanes: int) -> Expected:
    """rows: tokens of the step."""
    kernels, even, least, rest = 0.0, 0.0, 0.0, 0.0
    for op in figure.ops:
        own = op.seconds - 2 * op.count * machine.barrier_seconds(measured_lanes)  # the observer has one more barrier
        own = max(own, 0.0)
        if not op.operations:  # rows of the residual stream, dealt out row by row
            rest += own * -(-rows // lanes) / -(-rows // measured_lanes)
            continue
        times_least = own / machine.least(op, measured_lanes, unevenness(op.op, rows, config, measured_lanes))
        kernels += times_least * machine.least(op, lanes, unevenness(op.op, rows, config, lanes))
        even += times_least * machine.least(op, lanes)
        least += machine.least(op, lanes)
    instructions = sum(op.count for op in figure.ops)
    barriers = instructions * machine.barrier_seconds(lanes)
    rest += max(figure.outside - instructions * machine.barrier_seconds(measured_lanes), 0.0)
    seconds = kernels + barriers + rest
    return Expected(lanes, seconds, barriers, kernels - even, rest, least / seconds)


def unevenness(op: str, rows: int, config: Config, lanes: int) -> float:
    """The largest share of a lane over the average one."""
    if "attention" in op:
        group = config.n_heads // config.n_kv_heads
        tokens = max(1, _ATTENTION_ROWS // group)
        return _largest(config.n_kv_heads * -(-rows // tokens), 1, lanes)
    matrices = _matrices(op, config)
    total = sum(slabs * cols for slabs, cols in matrices)
    return sum(slabs * cols * _matrix_unevenness(slabs, lanes) for slabs, cols in matrices) / total


def _matrices(op: str, c: Config) -> list[tuple[float, int]]:
    """(slabs, columns) of the matrices of a kind of instruction; of the vocabulary's, its part of a layer."""
    q, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    if op == "gate_up":
        return [(c.ffn_dim / SLAB_ROWS, 2 * c.dim)]
    head = c.vocab_size / SLAB_ROWS, c.dim / c.n_layers
    return [((q + 2 * kv) / SLAB_ROWS, c.dim), (c.dim / SLAB_ROWS, q), (c.dim / SLAB_ROWS, c.ffn_dim), head]


def _matrix_unevenness(slabs: float, lanes: int) -> float:
    return 1.0 if lanes == 1 else _largest(slabs, max(1, int(slabs // (_PIECES_A_LANE * lanes))), lanes)


def _largest(items: float, piece: int, lanes: int) -> float:
    """The most items that one of the lanes gets, over their average."""
    pieces = -(-items // piece)
    return min(-(-pieces // lanes) * piece, items) * lanes / items
