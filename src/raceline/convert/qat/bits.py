"""Choose the layers whose weights can do with 4 bits, until a model is as small as asked."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.qat.export import exported
from raceline.convert.qat.layers import QuantisedLayer
from raceline.convert.qat.tracing import FakeQuantised
from raceline.convert.qat.training import scores
from raceline.core.errors import ConfigError
from raceline.core.progress import Progress, Silent
from raceline.ir import Bundle, Model

Array = np.ndarray[Any, Any]
FEW = 4


@dataclass(frozen=True)
class Narrowed:
    """Which layers got fewer bits.

    Attributes:
        layers: their names, the least sensitive per byte first.
        size_bytes: of the whole bundle as it would be written now: graph, weights and manifest.
        target_bytes: what was asked.
        sensitivity: layer -> relative error of the outputs where it alone has fewer bits.
    """

    layers: tuple[str, ...]
    size_bytes: int
    target_bytes: int
    sensitivity: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether the bundle is as small as asked."""
        return self.size_bytes <= self.target_bytes


def bundle_bytes(model: Model) -> int:
    """Bytes of all files of a model's bundle; it is written to find out."""
    with tempfile.TemporaryDirectory(prefix="raceline-size-") as folder:
        place = Path(folder) / "bundle"
        Bundle.write(place, model)
        return sum(file.stat().st_size for file in place.iterdir())


def narrowed(
    module: FakeQuantised, items: Array, target_bytes: int, *, name: str, progress: Progress | None = None
) -> Narrowed:
    """See `raceline.convert.qat.fewer_bits`."""
    if target_bytes < 1:
        raise ConfigError(f"a bundle of {target_bytes} bytes is impossible")
    size = _size(module, name)
    if size <= target_bytes:
        return Narrowed((), size, target_bytes, {})
    losses = _sensitivity(module, items, progress or Silent())
    order = sorted(losses, key=lambda one: losses[one] / _saved(module.layers[one]))
    chosen: list[str] = []
    while size > target_bytes and order:
        expected = size
        while expected > target_bytes and order:  # writing a bundle takes seconds: as many as should do
            chosen.append(order.pop(0))
            module.layers[chosen[-1]].set_bits(FEW)
            expected -= _saved(module.layers[chosen[-1]])
        size = _size(module, name)
    return Narrowed(tuple(chosen), size, target_bytes, losses)


def _sensitivity(module: FakeQuantised, items: Array, progress: Progress) -> dict[str, float]:
    """How far the outputs move where one layer alone gets fewer bits, for each layer that saves bytes by it."""
    usual = scores(module, items)
    losses = {}
    candidates = {n: one for n, one in module.layers.items() if one.bits > FEW and _saved(one) > 0}
    with progress.step("sensitivity of layers", total=len(candidates)) as step:
        for name, layer in candidates.items():
            bits, steps = layer.bits, layer.step.detach().clone()
            layer.set_bits(FEW)
            moved = scores(module, items)
            layer.bits = bits
            layer.step.data.copy_(steps)
            losses[name] = float(np.linalg.norm(moved - usual) / (np.linalg.norm(usual) or 1.0))
            step.advance(note=name)
    return losses


def _saved(layer: QuantisedLayer) -> int:
    """Bytes that two weights a byte save, as the bundle aligns them: the larger ones fill whole pages."""
    count = layer.layer.weight.numel()
    return count // 2 if count >= 64 else 0


def _size(module: FakeQuantised, name: str) -> int:
    return bundle_bytes(exported(module, name=name, batch_axis=None, pack=True))
