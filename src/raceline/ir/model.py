"""The model: an onnx_ir program with a typed signature and its provenance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raceline.ir.signature import Provenance, Signature

if TYPE_CHECKING:
    import onnx_ir

FUSED_DOMAIN = "raceline"
"""Domain of fused operators: model-local functions whose body, in standard ONNX, is their meaning."""


@dataclass
class Model:
    """A model whatever framework wrote it.

    A fused operator is a node of domain `raceline` that calls a model-local function, so that every engine
    either has a kernel for it or inlines the body and computes the same.

    Attributes:
        program: the graph, its functions and its weights.
        signature: what goes in and out; agrees with the graph's inputs and outputs in names and order.
        provenance: where it came from and what was done to it.
    """

    program: onnx_ir.Model
    signature: Signature
    provenance: Provenance = Provenance()

    @property
    def name(self) -> str:
        """The graph's name, or the source's."""
        return self.program.graph.name or self.provenance.source or "model"

    def clone(self) -> Model:
        """A copy whose graph can change without changing this one; weights are shared, never copied."""
        return replace(self, program=self.program.clone())

    def with_step(self, sentence: str) -> Model:
        """The same model, its provenance one sentence longer."""
        provenance = replace(self.provenance, steps=(*self.provenance.steps, sentence))
        return replace(self, provenance=provenance)
