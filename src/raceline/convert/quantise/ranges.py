"""What values a tensor takes, and the range that its quantised form should cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Method = Literal["minmax", "percentile", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "mse")

_PERCENTILE = 99.99
_CUTS = 64  # ranges that `mse` tries
_LEAST_RANGE = 1e-8


@dataclass
class Observed:
    """The values of one tensor over all samples: least, largest, and a histogram between them.

    Attributes:
        low, high: the least and the largest value.
        counts: (bins,) how many values fell between `low` and `high`, in equal steps; None until counted.
    """

    low: float = np.inf
    high: float = -np.inf
    counts: Array | None = None

    def reach(self, values: Array) -> None:
        """Widen the range to these values."""
        if values.size:
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def count(self, values: Array, bins: int) -> None:
        """Add values to the histogram; all lie within the range."""
        if self.high <= self.low:
            return
        found, _ = np.histogram(values, bins=bins, range=(self.low, self.high))
        self.counts = found if self.counts is None else self.counts + found

    def range(self, method: Method, *, symmetric: bool, levels: int = 255) -> tuple[float, float]:
        """The values that the quantised form should tell apart; those outside are clipped. Zero lies within.

        Args:
            method: "minmax" covers all; "percentile" leaves out the outermost 0.01 %; "mse" takes the range with
                the least mean squared error, clipping and rounding counted together.
            symmetric: whether it reaches equally far on both sides of zero.
            levels: steps of the quantised form.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if not np.isfinite(low) or not np.isfinite(high):
            return -1.0, 1.0  # never computed
        if symmetric:
            low, high = -max(-low, high), max(-low, high)
        if self.counts is not None and method != "minmax":
            chosen = self._percentile() if method == "percentile" else self._least_error(symmetric, levels)
            low, high = max(low, chosen[0]), min(high, chosen[1])
        if high - low < _LEAST_RANGE:
            high = low + _LEAST_RANGE
        return low, high

    def _middles(self) -> Array:
        assert self.counts is not None
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return (edges[1:] + edges[:-1]) / 2

    def _percentile(self) -> tuple[float, float]:
        assert self.counts is not None
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        share = np.cumsum(self.counts) / self.counts.sum()
        outside = (100 - _PERCENTILE) / 100
        first = int(np.searchsorted(share, outside / 2, side="right"))
        last = int(np.searchsorted(share, 1 - outside / 2))
        low, high = float(edges[first]), float(edges[min(last + 1, len(edges) - 1)])
        return min(low, 0.0), max(high, 0.0)

    def _least_error(self, symmetric: bool, levels: int) -> tuple[float, float]:
        """The best of ranges that are cut back in equal steps, the shorter side never below its own reach."""
        assert self.counts is not None
        middles, weights = self._middles(), self.counts.astype(np.float64)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        reach = max(-low, high)
        best, least = (low, high), np.inf
        for part in np.linspace(1.0, 1 / _CUTS, _CUTS):
            limit = reach * part
            tried = (-limit, limit) if symmetric else (max(low, -limit), min(high, limit))
            error = _error(middles, weights, *tried, levels)
            if error < least:
                best, least = tried, error
        return float(best[0]), float(best[1])


def _error(values: Array, weights: Array, low: float, high: float, levels: int) -> float:
    """Summed squared error of rounding to equal steps between `low` and `high`."""
    step = (high - low) / levels
    if step <= 0:
        return float(np.inf)
    rounded = np.clip(np.rint(values / step) * step, low, high)
    return float((weights * (values - rounded) ** 2).sum())
