"""Rounding that can be trained through: whole numbers forward, straight through and to the step size backward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raceline.convert.quantise import Observed
from raceline.convert.quantise.scheme import Scheme
from raceline.core.errors import BadModelError

BINS = 2048
_CUTS = 48  # step sizes that are tried for weights
_LEAST = float(np.finfo(np.float32).tiny)


class _Rounded(torch.autograd.Function):
    """Esser et al., Learned Step Size Quantization, ICLR 2020, eq. 1 to 3; the zero point stays where it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: int, low: int, high: int, factor: float) -> Tensor:
        """Values of `x` on the grid `(low - zero ... high - zero) * step`."""
        whole = torch.round(x / step).add_(zero).clamp_(low, high)
        out: Tensor = whole.sub_(zero).mul_(step)
        ctx.save_for_backward(x, step, out)
        ctx.reach, ctx.factor = (low - zero, high - zero), factor
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Straight through within reach, nothing beyond; to the step, what a larger step would have changed."""
        x, step, out = ctx.saved_tensors
        least, most = (limit * step for limit in ctx.reach)
        inside = (x >= least) & (x <= most)
        # Inside (round(v) - v), at the edges the edge: both are (out - x where inside) / step.
        to_step = ((out - x * inside) * gradient).sum_to_size(step.shape) / step * ctx.factor
        return gradient * inside, to_step, None, None, None, None


def rounded(x: Tensor, step: Tensor, zero: int, low: int, high: int, *, items: int) -> Tensor:
    """Quantise and dequantise, with gradients for `x` and for the step size.

    Args:
        x: any shape.
        step: size of a step, above 0; of a shape that broadcasts to x.
        zero: the whole number that stands for 0.
        low: least whole number.
        high: largest whole number.
        items: elements that share a step in one item: its gradient is scaled by 1/sqrt(items * reach), so that
            it moves about as fast as a weight (section 2.2 of the paper).
    """
    reach = max(high - zero, zero - low, 1)
    factor = 1.0 / math.sqrt(max(items, 1) * reach)
    result: Tensor = _Rounded.apply(x, step, zero, low, high, factor)
    return result


class FakeQuantise(nn.Module):
    """An activation as it is after 8 bits: its range is found by calibration, its step size is then learned.

    Attributes:
        step: the size of a step, a parameter.
        zero_point: the whole number that stands for 0; fixed by calibration.
        mode: "off" hands values on, "watch" and "count" do too and note them, "on" rounds.
    """

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        info = np.iinfo(scheme.dtype)
        self.low, self.high = int(info.min), int(info.max)
        self.step = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.mode = "off"
        self.seen = Observed()

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; on the grid where the mode is "on"."""
        if self.mode == "off":
            return x
        if self.mode != "on":
            self._note(x.detach())
            return x
        items = x[0].numel() if x.ndim else 1
        return rounded(x, self.step, int(self.zero_point), self.low, self.high, items=items)

    def _note(self, x: Tensor) -> None:
        values = x.numpy()
        if not np.isfinite(values).all():
            raise BadModelError(
                "the model computes NaN or infinity on the calibration data",
                next_step="Ranges cannot be taken from such numbers: check the data's scale.",
            )
        if self.mode == "watch":
            self.seen.reach(values)
        else:
            self.seen.count(values, BINS)

    def settle(self) -> None:
        """Take step and zero point from what was seen, by the scheme's method."""
        symmetric = self.scheme.activations == "int8"
        low, high = self.seen.range(self.scheme.method, symmetric=symmetric)
        step = max(high, -low) / 127 if symmetric else (high - low) / (self.high - self.low)
        zero = 0 if symmetric else round(self.low - low / step)
        with torch.no_grad():
            self.step.fill_(step)
            self.zero_point.fill_(zero)
        self.seen = Observed()


def weight_steps(weight: Tensor, axis: int | None, bits: int) -> Tensor:
    """The step size with the least squared error of rounding, one or one for each index of an axis.

    Returns:
        (C, 1, ...) or (1, ..., C, ... 1): broadcasts to the weight.
    """
    largest = 2 ** (bits - 1) - 1
    others = [a for a in range(weight.ndim) if a != axis]
    reach = weight.detach().abs().amax(dim=others, keepdim=True)
    best, least = reach / largest, torch.full_like(reach, torch.inf)
    for part in torch.linspace(1.0, 0.3, _CUTS).tolist():
        step = (reach * part / largest).clamp_min(_LEAST)
        apart = torch.round(weight / step).clamp_(-largest, largest) * step - weight
        error = apart.square().sum(dim=others, keepdim=True)
        best = torch.where(error < least, step, best)
        least = torch.minimum(error, least)
    return torch.where(reach > 0, best, torch.ones_like(best)).detach()
