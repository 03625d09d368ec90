"""Keep equal weights once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import Array, constant
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Keep one of several equal initializers"
after: tuple[str, ...] = ("fold_affine", "remove_dead_code")
tolerance = 0.0


def run(program: ir.Model) -> Iterator[tuple[tuple[str, ...], str]]:
    """Point all users of equal initializers of the main graph at the first of them."""
    merged = []
    by_size: dict[tuple[str, tuple[int, ...]], list[ir.Value]] = defaultdict(list)
    for value in list(program.graph.initializers.values()):
        array = constant(value)
        if array is None or value.is_graph_output():
            continue
        alike = by_size[str(array.dtype), array.shape]
        twin = next((kept for kept in alike if _equal(kept, array)), None)
        if twin is None:
            alike.append(value)
            continue
        value.replace_all_uses_with(twin)
        program.graph.initializers.pop(str(value.name))
        merged.append(f"weight {value.name!r}")
    if merged:
        yield tuple(merged), "another weight holds the same numbers"


def _equal(value: ir.Value, array: Array) -> bool:
    """Bit by bit, so that -0.0 and 0.0 stay apart and a NaN equals itself."""
    other = constant(value)
    assert other is not None
    head = slice(0, 16)
    return bool(
        other.reshape(-1)[head].tobytes() == array.reshape(-1)[head].tobytes()
        and other.tobytes() == array.tobytes()
    )


def example() -> Model:
    """Two equal weights under two names."""
    ones = np.ones(3, np.float32)
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3] x, float[3] a, float[3] b) => (float[N, 3] y) {
            t = Mul(x, a)
            y = Sub(t, b)
        }""",
        a=ones,
        b=ones.copy(),
    )
