"""How much of a model's time reads the matrices of products with few rows: all that weights in few bits can save.

A product of few rows reads every weight for a handful of multiplications, so the memory sets its pace, and
weights of a quarter of the bytes come sooner. With more rows, and in convolutions, widening them costs more than
reading them did (docs/decisions/0018 has the figures).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from raceline.convert.cost_model import sizes_of
from raceline.core.errors import RacelineError
from raceline.ir import Model, NodeCost, PlatformProfile, Shapes, cost

_MOST_ROWS = 8  # of a product that weights in few bits made faster on any engine that was measured
_LEAST_SHARE = 0.1  # of the time; even weights that come for nothing would save no more
_USUAL_CACHE_BYTES = 1 << 20  # of a core's own, where the platform does not say
_USUAL_FLOPS_PER_S = 5e10
_USUAL_BYTES_PER_S = 1e10
_NODE_S = 1.5e-6  # what an engine spends on a node whatever it computes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FewRows:
    """The products of few rows of one item.

    Attributes:
        share: of the time that the roofline gives the whole model.
        weight_bytes: that they read.
        most_batch: items with which they still have few rows; 0 where there are none.
        cache_bytes: of a core's own; weights that fit are read from there.
    """

    share: float
    weight_bytes: int
    most_batch: int
    cache_bytes: int

    @property
    def why_not(self) -> str:
        """Why weights in few bits cannot make the model faster; empty where they may."""
        if self.share < _LEAST_SHARE:
            return f"products of few rows take {self.share:.0%} of its time, and other layers gain nothing"
        if self.weight_bytes <= self.cache_bytes:
            return f"the {self.weight_bytes} bytes of weights that its products read fit into a core's cache"
        return ""


def few_rows(model: Model, shapes: Shapes, platform: PlatformProfile) -> FewRows:
    """Estimate what a model's products of few rows take, by the roofline of one core.

    Args:
        model: without functions; weights in full.
        shapes: the inputs' shapes at batch 1.
        platform: its rates; usual ones where it has none.
    """
    caches = [
        cache.size_bytes for cache in platform.caches if cache.level <= 2 and cache.kind != "instruction"
    ]
    room = max(caches, default=_USUAL_CACHE_BYTES)
    try:
        rows = cost(model, sizes_of(model, shapes)).rows
    except RacelineError as error:
        _logger.debug("no estimate for %s: %s", model.name, error)
        return FewRows(0.0, 0, 0, room)
    flops_per_s = platform.peak_ops_per_s("fp32", 1) or _USUAL_FLOPS_PER_S
    bytes_per_s = platform.memory_bytes_per_s_per_core or _USUAL_BYTES_PER_S

    def seconds(row: NodeCost) -> float:
        moved = (row.moved_bytes + row.weight_bytes) / bytes_per_s
        return max(row.flops / flops_per_s, moved, _NODE_S if row.flops or row.moved_bytes else 0.0)

    thin = [row for row in rows if 0 < _rows(row) <= _MOST_ROWS]
    whole = sum(map(seconds, rows))
    most = max((_rows(row) for row in thin), default=0.0)
    return FewRows(
        share=sum(map(seconds, thin)) / whole if whole else 0.0,
        weight_bytes=sum(row.weight_bytes for row in thin),
        most_batch=int(_MOST_ROWS / most) if most else 0,
        cache_bytes=room,
    )


def _rows(row: NodeCost) -> float:
    """Rows that a product of matrices multiplies each of its weights (of 4 bytes) with; 0 for other nodes."""
    if row.operator not in {"MatMul", "Gemm"} or not row.weight_bytes:
        return 0.0
    return row.multiply_add_flops / 2 / (row.weight_bytes / 4)
