"""Write quantised ONNX as TensorRT and the NPU providers of ONNX Runtime take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import placing, runtimes
from raceline.convert.consumers import consumer as known_consumer
from raceline.convert.example import model_from_text
from raceline.convert.symmetric_qdq import fixed, symmetric
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError
from raceline.engines import Tolerance
from raceline.ir import Model, check, weights, write_onnx

description = "quantised ONNX for TensorRT and NPUs: Q and DQ of symmetric int8, no functions, one file"
extension = ".onnx"
extra = "base"
exact_types = True

_LARGEST_BYTES = 2_000_000_000


def write(
    model: Model,
    path: Path,
    *,
    consumer: str = "tensorrt-10",
    sizes: Mapping[str, int] | None = None,
) -> list[Path]:
    """Make the quantisation symmetric without changing a number, and write the model.

    Args:
        model: quantised by QuantizeLinear and DequantizeLinear; stays as it is.
        path: the file, replaced at one instant.
        consumer: who reads it, a name of `consumers`; it bounds the opset.
        sizes: of all dynamic axes, to write static shapes; None keeps the axes open.

    Returns:
        the file.

    Raises:
        UnsupportedOperatorError: nodes whose quantisation is not symmetric int8, all of them.
        BadModelError: nothing is quantised, or static shapes were asked for and there are none.
    """
    reader = known_consumer(consumer)
    made = symmetric(model)
    if sizes is not None:
        made = fixed(made, dict(sizes))
    made = with_opset(made, max(min(made.program.opset_imports.get("", 1), reader.opset), 13))
    if weights.total_bytes(made.program) > _LARGEST_BYTES:
        raise BadModelError(f"{model.name} does not fit into one file", "its weights take over 2 GB")
    check(made)
    with placing.workshop(path) as folder:
        (file,) = write_onnx(made, folder / path.name, ir_version_cap=reader.ir_version)
        return [placing.place(file, path)]


def run(
    path: Path, cases: Sequence[Mapping[str, np.ndarray[Any, Any]]], **_: Any
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Run it in ONNX Runtime node by node, without its fusions: each Q and DQ as the standard defines it."""
    return runtimes.run(path, cases, "onnxruntime", plain=True)


def tolerance(**_: Any) -> Tolerance:
    """Two percent: a sum that rounds differently in its last bit may cross to the next whole number of a Q."""
    return Tolerance(1e-5, 2e-2)


def example() -> Model:
    """A layer whose activations are uint8 around 128, which are written as int8 around 0."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        layer (float[n, 3] x, uint8[3, 2] w, float sx, float sw, uint8 z) => (float[n, 2] y) {
          q = QuantizeLinear(x, sx, z)
          d = DequantizeLinear(q, sx, z)
          v = DequantizeLinear(w, sw, z)
          y = MatMul(d, v)
        }""",
        w=np.array([[1, 200], [128, 127], [255, 3]], np.uint8),
        sx=np.array(0.02, np.float32),
        sw=np.array(0.01, np.float32),
        z=np.array(128, np.uint8),
    )
