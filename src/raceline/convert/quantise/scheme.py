"""How whole numbers stand for real ones, as it suits an engine on a machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from raceline.convert.quantise.ranges import METHODS, Method
from raceline.core.errors import ConfigError
from raceline.ir import PlatformProfile
from raceline.ir.engine_rules import multiplies_exactly

Products = Literal["all", "scores", "none"]

RUNS_QDQ = ("onnxruntime", "openvino", "native")
"""Engines that run QDQ in 8-bit arithmetic. MNN 3.6 does not: its converter aborts on QuantizeLinear of computed
values, and its own 8-bit path takes no ranges but those that its own tool finds."""


RUNS_STORED = {8: ("onnxruntime", "openvino"), 4: ("onnxruntime", "openvino")}
"""Engines that multiply by weights of 8 or 4 bits as they are stored, and may be faster for it where rows are few.
Other engines widen such weights once, while loading."""


@dataclass(frozen=True)
class Scheme:
    """How to quantise.

    Attributes:
        activations: "uint8" with a zero point anywhere, or "int8" around zero.
        weight_bits: 8, or 7 where products of 8 bits would overflow the machine's 16-bit sums.
        per_channel: a scale for each output channel of a weight.
        method: how ranges of activations are found.
        results: whether the results of quantised convolutions are quantised at once, as ONNX Runtime's kernels
            want it, and OpenVINO's before a pool; else only what such nodes read, and the engine decides.
        sums: whether results of convolutions that are added to something computed are quantised before, so that
            residual sums are of 8-bit numbers on both sides. It saves memory traffic and costs accuracy.
        products: which products whose factors are both computed, as in attention, are quantised too: "all", "none",
            or "scores", which leaves in floats those that a softmax weighs, and of the others takes both factors as
            int8 around zero, whatever `activations` are.
    """

    activations: Literal["uint8", "int8"] = "uint8"
    weight_bits: int = 8
    per_channel: bool = True
    method: Method = "minmax"
    results: bool = True
    sums: bool = False
    products: Products = "all"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"there is no method {self.method!r}", f"there are {', '.join(METHODS)}")
        if self.weight_bits not in {4, 5, 6, 7, 8}:
            raise ConfigError(f"weights cannot have {self.weight_bits} bits", "4 to 8 are possible")
        if self.activations not in {"uint8", "int8"}:
            raise ConfigError(f"activations cannot be {self.activations}", "uint8 and int8 are possible")

    @property
    def precision(self) -> str:
        """What the tuner and the command line call it."""
        return "int8"

    def __str__(self) -> str:
        return f"{self.weight_bits}-bit weights, {self.activations} activations, ranges by {self.method}"

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        """NumPy's type of quantised activations."""
        return np.dtype(self.activations)


# Our own attention stays in one piece, which computes in floats; OpenVINO's takes scores of int8 around zero only.
_PRODUCTS: dict[str, Products] = {"native": "none", "openvino": "scores"}


def scheme_for(engine: str, platform: PlatformProfile, *, method: Method = "minmax") -> Scheme:
    """What suits an engine's kernels on a machine."""
    exact = engine == "native" or multiplies_exactly(platform.architecture, platform.instruction_sets)
    return Scheme(
        weight_bits=8 if exact else 7, results=engine == "onnxruntime", products=_PRODUCTS.get(engine, "all"),
        method=method,
    )  # fmt: skip


def schemes_for(engine: str, platform: PlatformProfile) -> tuple[Scheme, ...]:
    """Schemes between which measuring has to decide, the usual first, which stays where the others gain little.

    OpenVINO computes a convolution and the pool behind it in floats unless the result between them is quantised,
    and elsewhere is faster without such pairs.
    """
    usual = scheme_for(engine, platform)
    if engine != "openvino":
        return (usual,)
    return usual, replace(usual, products="none"), replace(usual, sums=True), replace(usual, results=True)
