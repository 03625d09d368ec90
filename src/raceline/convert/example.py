"""Small models written as ONNX text, for the examples that passes and readers carry."""

from __future__ import annotations

from typing import Any

import numpy as np

from raceline.ir import Model, Provenance
from raceline.ir.axes import signature_of


def model_from_text(text: str, seed: int = 0, **weights: Any) -> Model:
    """A model from ONNX's text form.

    Args:
        text: a whole model. Names of weights stand among the graph's inputs.
        seed: of the weights given by shape alone.
        weights: initializer -> its array, or its shape to fill with float32 from a normal distribution.
    """
    import onnx_ir as ir

    program = ir.from_onnx_text(text)
    graph = program.graph
    rng = np.random.default_rng(seed)
    values = {value.name: value for value in graph.inputs}
    for name, given in weights.items():
        array = given if isinstance(given, np.ndarray) else rng.standard_normal(given).astype(np.float32)
        value = values[name]
        graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        graph.register_initializer(value)
    return Model(program, signature_of(program), Provenance(source=graph.name or ""))
