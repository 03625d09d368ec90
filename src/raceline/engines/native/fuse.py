"""Steps merged: activations, sums and scales go into the convolution before them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from raceline.engines.native.operators import (
    BINARY,
    CLIP,
    HARD_SIGMOID,
    HARD_SWISH,
    LINEAR,
    NOTHING,
    SIGMOID,
    SILU,
    Function,
    Step,
)

_WITH_FUNCTION = {"convolution", "binary", "affine"}


def fused(steps: list[Step], kept: Collection[str]) -> list[Step]:
    """Fewer steps that compute the same, in an order that works.

    Args:
        steps: in order; stay as they are.
        kept: values that are read from outside, and therefore must be computed.
    """
    merging = _Merging([replace(step, settings=dict(step.settings)) for step in steps], kept)
    for merge in (
        merging.gate, merging.scale, merging.function, merging.swish, merging.scale, merging.function,
        merging.linear, merging.residual, merging.function,
    ):  # fmt: skip
        merging.everywhere(merge)
    return merging.steps


class _Merging:
    """The steps while they are merged: each method merges one step into others, or leaves it."""

    def __init__(self, steps: list[Step], kept: Collection[str]) -> None:
        self.steps = steps
        self._kept = kept

    def everywhere(self, merge: Callable[[Step], Step | None]) -> None:
        """Offer every step once, in order; `merge` says which earlier step it made superfluous."""
        self._index()
        for step in list(self.steps):
            gone = merge(step)
            if gone is not None:
                self.steps.remove(gone)
                self._index()

    def _index(self) -> None:
        self._writer = {name: step for step in self.steps for name in step.writes}
        self._place = {id(step): place for place, step in enumerate(self.steps)}
        self._uses = Counter(name for step in self.steps for name in _reads(step))

    def _only_reader(self, name: str) -> Step | None:
        """The step that writes a value, if it is read once and nowhere else."""
        if self._uses[name] != 1 or name in self._kept:
            return None
        return self._writer.get(name)

    def gate(self, step: Step) -> Step | None:
        """A value times its sigmoid, or its hard sigmoid, as one function."""
        if step.kind != "binary" or step.settings["op"] != BINARY["Mul"]:
            return None
        for x, gate in (step.reads, step.reads[::-1]):
            source = self._only_reader(gate)
            if source is not None and source.kind == "apply" and source.reads == [x]:
                function = _gated(source.first)
                if function is not None:
                    step.kind, step.reads, step.settings, step.first = "apply", [x], {}, function
                    return source
        return None

    def swish(self, step: Step) -> Step | None:
        """The hard swish as x * clip(x + 3, 0, 6), which is six times it: as a function and a scale."""
        if step.kind != "binary" or step.settings["op"] != BINARY["Mul"]:
            return None
        for x, gate in (step.reads, step.reads[::-1]):
            source = self._only_reader(gate)
            if source is None or source.kind != "affine" or source.reads != [x]:
                continue
            scale, shift = source.settings["scale"], source.settings["shift"]
            if source.first == Function(CLIP, 0.0, 6.0) and np.all(scale == 1) and np.all(shift == 3):
                source.kind, source.settings, source.first = "apply", {}, Function(HARD_SWISH)
                step.kind, step.reads = "affine", [gate]
                step.settings = {"scale": np.full_like(scale, 6), "shift": np.zeros_like(shift)}
                self._index()
                return None
        return None

    def scale(self, step: Step) -> Step | None:
        """A scale and shift of channels, into the weights before it, or into such a step before it."""
        source = self._only_reader(step.reads[0]) if step.kind == "affine" else None
        if source is None or source.kind not in {"convolution", "affine"} or source.first != NOTHING:
            return None
        scale, shift = step.settings["scale"], step.settings["shift"]
        source.first = step.first
        if source.kind == "affine":
            source.settings["shift"] = source.settings["shift"] * scale + shift
            source.settings["scale"] = source.settings["scale"] * scale
            return self._take_place(source, step)
        weights, bias = source.settings["weights"], source.settings["bias"]
        source.settings["weights"] = np.ascontiguousarray(weights * scale[:, None, None, None])
        source.settings["bias"] = shift if bias is None else bias * scale + shift
        if whole := source.settings.get("whole"):
            source.settings["whole"] = whole._replace(scale=np.ascontiguousarray(whole.scale * scale))
        return self._take_place(source, step)

    def function(self, step: Step) -> Step | None:
        """An activation, into whatever computes what it reads."""
        source = self._only_reader(step.reads[0]) if step.kind == "apply" else None
        if source is None or source.kind not in _WITH_FUNCTION:
            return None
        if source.residual and source.second == NOTHING:
            source.second = step.first
        elif not source.residual and source.first == NOTHING:
            source.first = step.first
        else:
            return None
        return self._take_place(source, step)

    def linear(self, step: Step) -> Step | None:
        """The same scale and shift of all channels, after the activation of a convolution."""
        source = self._only_reader(step.reads[0]) if step.kind == "affine" else None
        if source is None or source.kind != "convolution" or source.residual or step.first != NOTHING:
            return None
        scale, shift = step.settings["scale"], step.settings["shift"]
        same = np.all(scale == scale[0]) and np.all(shift == shift[0])
        if not same or source.first == NOTHING or source.second != NOTHING:
            return None
        source.second = Function(LINEAR, float(scale[0]), float(shift[0]))
        return self._take_place(source, step)

    def residual(self, step: Step) -> Step | None:
        """A sum, into the convolution that computes one side of it: the later one, where both do."""
        if step.kind != "binary" or step.settings["op"] != BINARY["Add"] or not step.settings["same_shape"]:
            return None
        sides = [(self._only_reader(name), other) for name, other in (step.reads, step.reads[::-1])]
        fitting = [
            (s, o) for s, o in sides
            if s is not None and s.kind == "convolution" and not s.residual and s.second == NOTHING
        ]  # fmt: skip
        if not fitting or step.reads[0] == step.reads[1]:
            return None
        source, other = max(fitting, key=lambda pair: self._place[id(pair[0])])
        source.residual, source.second = other, step.first
        return self._take_place(source, step)

    def _take_place(self, source: Step, step: Step) -> Step:
        """Let `source` do the work where `step` stood, when all that it reads is there."""
        step.kind, step.reads, step.settings = source.kind, source.reads, source.settings
        step.first, step.residual, step.second = source.first, source.residual, source.second
        return source


def _reads(step: Step) -> list[str]:
    return [*step.reads, step.residual] if step.residual else step.reads


def _gated(function: Function) -> Function | None:
    if function.kind == SIGMOID:
        return Function(SILU)
    if function.kind == HARD_SIGMOID and math.isclose(function.a, 1 / 6, rel_tol=1e-6) and function.b == 0.5:
        return Function(HARD_SWISH)
    return None
