"""The meaning of the operators, computed with NumPy: slow, and what every other engine is held against."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raceline.core.errors import InvariantError
from raceline.engines import Options, Tensors, Tolerance
from raceline.ir import Model
from raceline.ir.reference import run_reference

description = "NumPy reference: for truth, not for speed"
tolerance = Tolerance(atol=0.0, rtol=0.0)


def version() -> str:
    """Version of the ONNX package, whose reference evaluator computes the operators."""
    import onnx

    return str(onnx.__version__)


def load(model: Model, options: Options) -> "_Session":
    """Keep `model`; nothing is compiled, and threads, streams and precision change nothing."""
    del options
    return _Session(model)


class _Session:
    """Safe to call from any number of threads: every run is its own."""

    def __init__(self, model: Model) -> None:
        self._model: Model | None = model

    def run(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        if self._model is None:
            raise InvariantError("a closed session was run", "reference")
        return {name: np.array(array) for name, array in run_reference(self._model, inputs).items()}

    def memory_bytes(self) -> int:
        return 0  # the weights are the model's own, and nothing outlives a run

    def close(self) -> None:
        self._model = None
