"""Which nodes a runtime takes: tables that its makers publish, and the restrictions that they state beside.

A table that leaves an operator out does not say that it is refused: that is unknown, and told so. Of an operator
that ONNX defines by others, a runtime that lacks it takes the others, as ONNX Runtime does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np

from raceline.convert.targets.graph import Facts, Step
from raceline.core.errors import ConfigError
from raceline.core.records import from_json
from raceline.ir import operators

UNLISTED = ("refuses", "unknown")
Answer = Literal["takes", "refuses", "unknown"]
Check = Callable[[Step, Facts], str]


class Verdict(NamedTuple):
    """What is known of one node: the answer, and why unless it is taken."""

    answer: Answer
    why: str = ""


@dataclass(frozen=True)
class Table:
    """What one version of a runtime takes.

    Attributes:
        runtime, version: whose table this is.
        source: where it stands, and what it leaves open.
        date: when it was read.
        unlisted: what it means that an operator of ONNX's own domain is not there: "refuses" or "unknown".
        takes, refuses: operators of ONNX's own domain.
        opsets: the oldest and newest that are read; None: unknown.
    """

    runtime: str
    version: str
    source: str
    date: str
    unlisted: str
    takes: tuple[str, ...]
    refuses: tuple[str, ...]
    opsets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.unlisted not in UNLISTED:
            raise ConfigError(f"unlisted is {self.unlisted!r}", f"it must be one of {', '.join(UNLISTED)}")

    @property
    def whose(self) -> str:
        """Runtime and version, for people."""
        return f"{self.runtime} {self.version}"

    def verdict(self, step: Step, facts: Facts) -> Verdict:
        """What is known of a node."""
        if step.operator in self.refuses:
            return Verdict("refuses", f"{self.whose} lists it as unsupported")
        if step.operator in self.takes:
            broken = _restriction(self, step, facts)
            return Verdict("refuses", broken) if broken else Verdict("takes")
        body = _defined_by(step.operator, facts.opset)
        if body and all(name in self.takes for name in body):
            return Verdict("takes")
        if self.unlisted == "refuses" and "." not in step.operator:
            return Verdict("refuses", f"{self.whose} has no kernel for it")
        return Verdict("unknown", f"no published list of {self.whose} names it")


@cache
def table(name: str) -> Table:
    """One of the tables that ship.

    Raises:
        ConfigError: the file is damaged.
    """
    path = resources.files("raceline.convert.targets") / "support" / f"{name}.json"
    try:
        return from_json(Table, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(f"the operator table {name} is damaged", str(error), "Install again.") from error


def _defined_by(operator: str, opset: int) -> tuple[str, ...]:
    """The operators that define one, where ONNX's standard does so without conditions."""
    schema = None if "." in operator else operators.schema("", operator, opset)
    if schema is None or not schema.has_function:
        return ()
    return tuple({node.op_type for node in schema.function_body.node} - {"Constant"})


def _restriction(which: Table, step: Step, facts: Facts) -> str:
    """The first stated restriction that a node breaks; empty where none."""
    for name, checks in _CHECKS.items():
        if which is table(name) and step.operator in checks:
            return checks[step.operator](step, facts)
    return ""


def _attribute(step: Step, name: str, default: Any) -> Any:
    import onnx

    found = next((a for a in step.node.attribute if a.name == name), None)
    value = default if found is None else onnx.helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value


def _rank(step: Step, facts: Facts, place: int = 0) -> int:
    info = facts.infos.get(step.node.input[place])
    return 0 if info is None else len(info.shape)


def _constant(step: Step, facts: Facts, place: int) -> np.ndarray[Any, Any] | None:
    name = step.node.input[place] if place < len(step.node.input) else ""
    return facts.constants.get(name)


def _pool(step: Step, facts: Facts) -> str:
    if _rank(step, facts) not in {4, 5}:
        return "it pools in two or three dimensions only"
    if any(dilation != 1 for dilation in _attribute(step, "dilations", [])):
        return "it has no dilated pooling"
    if len(step.writes) > 1:
        return "it does not tell where the maxima lie"
    return ""


def _zero_point(step: Step, facts: Facts) -> str:
    point = _constant(step, facts, 2)
    return "the zero point must be zero" if point is not None and point.any() else ""


def _resize(step: Step, facts: Facts) -> str:
    mode = _attribute(step, "mode", "nearest")
    if mode not in {"nearest", "linear"}:
        return f"it does not resize in mode {mode}"
    if _attribute(step, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "it does not crop while resizing"
    return "it has no antialiasing" if _attribute(step, "antialias", 0) else ""


def _layer_norm(step: Step, facts: Facts) -> str:
    return "only the first output is computed" if len(step.writes) > 1 else ""


def _lstm(step: Step, facts: Facts) -> str:
    wrong = _attribute(step, "input_forget", 0) or _attribute(step, "layout", 0)
    return "input_forget and layout must be 0" if wrong else ""


def _top_k(step: Step, facts: Facts) -> str:
    count = _constant(step, facts, 1)
    if count is not None and int(count.reshape(-1)[0]) >= 3840:
        return "K must be below 3840"
    return "" if _attribute(step, "sorted", 1) else "sorted must be 1"


def _grid_sample(step: Step, facts: Facts) -> str:
    return "" if _rank(step, facts) == 4 else "the input must have four axes"


def _scatter(step: Step, facts: Facts) -> str:
    reduction = _attribute(step, "reduction", "none")
    return "" if reduction == "none" else f"it does not reduce by {reduction}"


def _positive_indices(step: Step, facts: Facts) -> str:
    indices = _constant(step, facts, 1)
    return "indices must not be negative" if indices is not None and (indices < 0).any() else ""


def _norm_2(step: Step, facts: Facts) -> str:
    return "" if _attribute(step, "p", 2) == 2 else "p must be 2"


def _plane(step: Step, facts: Facts) -> str:
    return "" if _rank(step, facts) == 4 else "it works in two dimensions only"


def _plane_conv(step: Step, facts: Facts) -> str:
    if any(name in step.reads for name in step.node.input[1:]):
        return "weights and bias must be constants"
    return _plane(step, facts)


# As the tables' sources state them.
_CHECKS: Mapping[str, Mapping[str, Check]] = {
    "tensorrt": {
        "AveragePool": _pool,
        "DequantizeLinear": _zero_point,
        "GridSample": _grid_sample,
        "LSTM": _lstm,
        "LayerNormalization": _layer_norm,
        "MaxPool": _pool,
        "QuantizeLinear": _zero_point,
        "Resize": _resize,
        "ScatterND": _scatter,
        "TopK": _top_k,
    },
    "qnn": {"Gather": _positive_indices, "LpNormalization": _norm_2},
    "cann": {"AveragePool": _plane, "Conv": _plane_conv, "MaxPool": _plane},
}
