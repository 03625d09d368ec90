"""Layers with weights, as they will run: BatchNorm folded into the weights, and those rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raceline.convert.qat.fake import rounded, weight_steps
from raceline.convert.quantise.insert import MOST_OF_A_BIAS

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRANSPOSE = {
    nn.ConvTranspose1d: functional.conv_transpose1d,
    nn.ConvTranspose2d: functional.conv_transpose2d,
    nn.ConvTranspose3d: functional.conv_transpose3d,
}
_CONVOLVE = {nn.Conv1d: functional.conv1d, nn.Conv2d: functional.conv2d, nn.Conv3d: functional.conv3d}
_LEAST_FACTOR = 1e-12


class QuantisedLayer(nn.Module):
    """A convolution or linear layer with its BatchNorm folded in and its weights rounded.

    Training sees the same function as inference: the BatchNorm's running statistics are folded, never those of
    the batch. Until `frozen` they follow the data, taken from the folded result, so that no second convolution
    is needed.

    Attributes:
        layer: the convolution or linear layer; its weight is trained in floating point.
        norm: the BatchNorm that followed it, or None.
        bits: of the weights: whole numbers from -(2**(bits - 1) - 1) to 2**(bits - 1) - 1.
        step: step sizes, a parameter that broadcasts to the weight.
        rounds: whether the weights are rounded.
        frozen: whether the running statistics stay.
        source: name of the quantiser that gives its input; empty where there is none.
    """

    def __init__(self, layer: Any, norm: Any, bits: int, *, per_channel: bool = True) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.transposed = isinstance(layer, TRANSPOSED)
        self.axis: int | None = (1 if self.transposed else 0) if per_channel else None
        self.bits = bits
        self.rounds, self.frozen = False, False
        self.source = ""
        with torch.no_grad():
            self.step = nn.Parameter(weight_steps(self.folded()[0], self.axis, bits))

    @property
    def largest(self) -> int:
        """The largest whole number of a weight."""
        return int(2 ** (self.bits - 1) - 1)

    def set_bits(self, bits: int) -> None:
        """Round the weights to another number of bits; the step sizes start anew."""
        self.bits = bits
        with torch.no_grad():
            self.step.copy_(weight_steps(self.folded()[0], self.axis, bits))

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the BatchNorm in them: y = gamma (x - mean) / sqrt(variance + eps) + beta."""
        weight, bias = self.layer.weight, self.layer.bias
        if self.norm is None:
            return weight, bias
        factor, shift = _norm_factors(self.norm)
        shift = shift if bias is None else shift + bias * factor
        return self._scaled(weight, factor), shift

    def _scaled(self, weight: Tensor, factor: Tensor) -> Tensor:
        """The weight with each output channel multiplied."""
        rest = [1] * (weight.ndim - 2)
        if not self.transposed:
            return weight * factor.reshape(-1, 1, *rest)
        groups, (wide_in, wide_out, *kernel) = self.layer.groups, weight.shape
        parts = weight.reshape(groups, wide_in // groups, wide_out, *kernel)
        return (parts * factor.reshape(groups, 1, wide_out, *rest)).reshape(weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer and its BatchNorm give."""
        weight, bias = self.folded()
        if self.rounds:
            items = weight.numel() // self.step.numel()
            weight = rounded(weight, self.step, 0, -self.largest, self.largest, items=items)
        y = apply(self.layer, x, weight, bias)
        if self.training and self.norm is not None and not self.frozen:
            self._follow(y.detach())
        return y

    def whole(self, source_step: float | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The weight in whole numbers (int8), its steps (C,) or (), and the folded bias.

        Args:
            source_step: of the input, where that is rounded: then no step is so small that the bias, which
                engines round to the scale of the products, would be too large for 32 bits.
        """
        weight, bias = (None if part is None else part.detach() for part in self.folded())
        step = self.step.detach().clone()
        if source_step is not None and bias is not None:
            least = bias.abs() / (source_step * MOST_OF_A_BIAS)
            groups = self.layer.groups if self.transposed else 1
            least = least.max() if self.axis is None else least.reshape(groups, -1).amax(dim=0)
            step = torch.maximum(step, least.reshape(step.shape))
        small = torch.round(weight / step).clamp_(-self.largest, self.largest).to(torch.int8)
        steps = step.reshape(()) if self.axis is None else step.reshape(-1)
        return small, steps, None if bias is None else bias.clone()

    @torch.no_grad()
    def _follow(self, y: Tensor) -> None:
        """Move the running statistics towards those of the batch, as BatchNorm does.

        What BatchNorm would have normalised is found from the folded result; a channel whose factor is next to
        nothing cannot be, and keeps its statistics.
        """
        norm = self.norm
        count = y.numel() // y.shape[1]
        if count < 2:
            return  # no variance
        factor, shift = _norm_factors(norm)
        variance, mean = torch.var_mean(y, dim=[0, *range(2, y.ndim)])
        usable = factor.abs() > _LEAST_FACTOR
        safe = torch.where(usable, factor, torch.ones_like(factor))
        norm.num_batches_tracked += 1
        pace = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
        for kept, new in ((norm.running_mean, (mean - shift) / safe), (norm.running_var, variance / safe**2)):
            kept.copy_(torch.where(usable, torch.lerp(kept, new, pace), kept))


def _norm_factors(norm: Any) -> tuple[Tensor, Tensor]:
    """What a BatchNorm multiplies by and then adds, each (C,)."""
    factor = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight
    shift = -norm.running_mean * factor
    return factor, shift if norm.bias is None else shift + norm.bias


def apply(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a layer computes with another weight and bias."""
    result: Tensor
    if isinstance(layer, nn.Linear):
        result = functional.linear(x, weight, bias)
    elif isinstance(layer, TRANSPOSED):
        function = next(f for kind, f in _TRANSPOSE.items() if isinstance(layer, kind))
        result = function(
            x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )
    else:
        function = next(f for kind, f in _CONVOLVE.items() if isinstance(layer, kind))
        result = function(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return result


def unfit(layer: Any) -> str:
    """Why a layer cannot be quantised; empty where it can."""
    if not isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
        return "it is no convolution and no linear layer"
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return f"it pads by {layer.padding_mode!r}"
    if layer.weight.dtype != torch.float32:
        return f"it computes in {layer.weight.dtype}, not float32"
    if not torch.isfinite(layer.weight).all():
        return "its weights are not all finite"
    return ""
