"""What a model's outputs should be, to hold candidates against while they are tuned."""

from dataclasses import dataclass, field

from raceline import engines
from raceline.convert.equivalence import compare, tolerance_of
from raceline.ir import Candidate, Model, Reference, Shapes, make_inputs

_CHECKED_ROWS = 3


@dataclass
class Truth:
    """What the outputs should be, from the reference run of the source; a few rows of each batch."""

    source: Model
    shapes: Shapes
    seed: int
    _known: dict[tuple[int, int], tuple[engines.Tensors, engines.Tensors]] = field(default_factory=dict)
    _reference: Reference | None = None

    def seeds(self, batch: int) -> list[int]:
        """Inputs to compare on: as many rows whatever the batch."""
        return [self.seed] if batch >= _CHECKED_ROWS else [self.seed + i for i in range(_CHECKED_ROWS)]

    def disagreement(self, candidate: Candidate, seed: int, outputs: engines.Tensors) -> str:
        """How a candidate's outputs are wrong; empty where they are right."""
        self._reference = self._reference or Reference(self.source)
        inputs, expected = self._expected(self._reference, candidate.batch, seed)
        picked = self._few_rows(outputs, candidate.batch)
        tolerance = tolerance_of(candidate.engine, self.source)
        found = compare(self._reference, inputs, picked, tolerance, expected=expected)
        return "; ".join(f"{d.name} {d.why or _apart(d.max_rel)}" for d in found if not d.ok)

    def _expected(
        self, reference: Reference, batch: int, seed: int
    ) -> tuple[engines.Tensors, engines.Tensors]:
        """Inputs and outputs, of a few rows."""
        if (batch, seed) not in self._known:
            signature = self.source.signature
            full = make_inputs(signature, engines.batched(signature, self.shapes, batch), seed=seed)
            inputs = self._few_rows(full, batch)
            self._known[batch, seed] = inputs, reference.run(inputs)
        return self._known[batch, seed]

    def _few_rows(self, tensors: engines.Tensors, batch: int) -> engines.Tensors:
        """First, middle and last row of a large batch; the reference is slow."""
        if batch <= _CHECKED_ROWS or self.source.signature.batch_axis is None:
            return tensors
        return {name: array[[0, batch // 2, batch - 1]] for name, array in tensors.items()}


def _apart(max_rel: float | None) -> str:
    return f"is off by {max_rel:.1e} of its largest value"
