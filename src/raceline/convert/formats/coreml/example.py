"""The message of a small model, for tests that have no coremltools."""

from __future__ import annotations

from typing import Any

import numpy as np

from raceline.convert.formats.coreml.package import model_class

_FLOAT32 = 11


def message(weight: np.ndarray[Any, Any]) -> bytes:
    """The bytes of y = relu(x weight), with an open number of items."""
    model = model_class()(specificationVersion=7)
    for side, name in ((model.description.input, "x"), (model.description.output, "y")):
        side.add(name=name).type.multiArrayType.dataType = 65568
    function = model.mlProgram.functions["main"]
    function.opset = "CoreML6"
    rows, columns = weight.shape
    _typed(function.inputs.add(name="x").type, None, rows)
    block = function.block_specializations["CoreML6"]
    const = block.operations.add(type="const")
    _typed(const.outputs.add(name="w").type, rows, columns)
    value = const.attributes["val"]
    _typed(value.type, rows, columns)
    value.immediateValue.tensor.floats.values.extend(weight.reshape(-1).tolist())
    product = block.operations.add(type="matmul")
    for key, name in (("x", "x"), ("y", "w")):
        product.inputs[key].arguments.add(name=name)
    _typed(product.outputs.add(name="h").type, None, columns)
    relu = block.operations.add(type="relu")
    relu.inputs["x"].arguments.add(name="h")
    _typed(relu.outputs.add(name="y").type, None, columns)
    block.outputs.append("y")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _typed(value_type: Any, *sizes: int | None) -> None:
    """Say that it is a tensor of 32-bit numbers."""
    value_type.tensorType.dataType = _FLOAT32
    value_type.tensorType.rank = len(sizes)
    for size in sizes:
        dimension = value_type.tensorType.dimensions.add()
        if size is None:
            dimension.unknown.variadic = False
        else:
            dimension.constant.size = size
