"""Give reshapes a constant target, and let a reshape of a reshape read the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.dims import Dim, dims_in, dims_of_shape
from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, attribute, constant, describe, is_op, operand, producer
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Replace computed reshape targets by constants, and merge reshapes of reshapes"
after: tuple[str, ...] = ("fold_constants", "remove_identity")
tolerance = 0.0

DRESSING = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")  # these keep all elements in their order


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A reshape whose target is computed, or that follows another node which only changes the shape."""
    if not is_op(node, "Reshape") or len(node.inputs) != 2:
        return None
    target = constant(node.inputs[1])
    if target is None:
        dims = dims_in(node.inputs[1])
        return None if dims is None else Match((node,), {"dims": dims})
    before = producer(node.inputs[0], *DRESSING)
    if before is None:
        return None
    return Match((node,), {"before": before, "source": operand(before, 0), "target": target})


def check(match: Match, scope: Scope) -> str:
    """The new target must give the same shape for every input."""
    (node,) = match.nodes
    if "source" in match.values:
        if (match.values["target"] == 0).any():
            return "its target has a 0, which refers to the shape before it"
        return ""
    target = _target(
        match.values["dims"], dims_of_shape(operand(node, 0)), bool(attribute(node, "allowzero", 0))
    )
    match.values["new"] = target
    return "" if target is not None else "more than one of its dimensions is only known at run time"


def rewrite(match: Match, scope: Scope) -> str:
    """Swap the target or the source."""
    (node,) = match.nodes
    if "source" in match.values:
        before = describe(match.values["before"])
        node.replace_input_with(0, match.values["source"])
        return f"it reads what {before} read, as only the elements' order counts"
    target = np.array(match.values["new"], np.int64)
    node.replace_input_with(1, scope.add_constant(f"{match.result.name}_shape", target))
    if 0 in match.values["new"]:
        node.attributes.pop("allowzero", None)  # a 0 now means: as before
    return (
        f"its target always comes to {target.tolist()}, where -1 stands for what is left and 0 for as before"
    )


def _target(dims: list[Dim], have: list[Dim] | None, keeps_zero: bool) -> list[int] | None:
    """The dimensions as a constant target; None where more than one would have to be inferred."""
    if keeps_zero and 0 in dims:
        return None  # an empty axis: beside it an inferred dimension means nothing
    target = [dim if isinstance(dim, int) else -1 for dim in dims]
    for place, dim in enumerate(dims):
        inherited = have is not None and place < len(have) and have[place] == dim
        if target.count(-1) > 1 and inherited and not isinstance(dim, int):
            target[place] = 0
    return target if target.count(-1) <= 1 else None


def example() -> Model:
    """The target of an exporter that flattens all but the batch."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 4] x, int64[1] first, int64[1] rest) => (float[N, M] y) {
            shape = Shape(x)
            batch = Gather(shape, first)
            target = Concat<axis = 0>(batch, rest)
            y = Reshape(x, target)
        }""",
        first=np.array([0]),
        rest=np.array([12]),
    )
