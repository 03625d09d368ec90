"""The Loop of onnx's reference evaluator, mended: it joined scanned outputs instead of stacking them."""

from __future__ import annotations

from typing import Any

import numpy as np


def loop_operator() -> Any:
    """An operator class for `ReferenceEvaluator(new_ops=...)`."""
    from onnx.reference.ops.op_loop import Loop as Original

    def _run(
        self: Any,
        trips: Any,
        going: Any,
        *initial: Any,
        context: Any = None,
        body: Any = None,
        attributes: Any = None,
        bindings: Any = None,
    ) -> tuple[Any, ...]:
        del body
        inputs = dict(context or {})
        state = list(initial)
        scanned: list[list[Any]] = [[] for _ in self.body.output_names[1 + len(state) :]]
        count, more = 0, going is None or bool(np.asarray(going).reshape(-1)[0])
        most = None if trips is None else int(np.asarray(trips).reshape(-1)[0])
        while more and (most is None or count < most):
            given = [np.array(count, np.int64), np.array(True), *state]
            inputs.update(zip(self.body.input_names, given, strict=True))
            outputs = self._run_body(inputs, attributes=attributes, bindings=bindings)
            more = bool(np.asarray(outputs[0]).reshape(-1)[0])
            state = list(outputs[1 : 1 + len(state)])
            for rows, row in zip(scanned, outputs[1 + len(state) :], strict=True):
                rows.append(row)
            count += 1
        declared = self.body.proto_.output[1 + len(state) :]
        stacks = [
            np.stack(rows) if rows else _nothing(info) for rows, info in zip(scanned, declared, strict=True)
        ]
        return (*state, *stacks)

    return type("Loop", (Original,), {"op_domain": "", "_run": _run})


def _nothing(info: Any) -> Any:
    """No rounds: an empty stack of the type and shape that the body declares."""
    import onnx

    kind = info.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type or onnx.TensorProto.FLOAT)
    return np.zeros((0, *(dim.dim_value for dim in kind.shape.dim)), dtype)
