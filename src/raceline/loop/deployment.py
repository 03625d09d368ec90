"""What a deployment is asked for, and everything it found out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raceline.convert import Equivalence, Refusal, Rewrite, quantise
from raceline.core.errors import ConfigError
from raceline.ir import WEIGHTS_ONLY, Cost, Model, PlatformProfile, Profile, Shapes
from raceline.serve import Evaluation

PRECISIONS = ("auto", "fp32", "int8", *WEIGHTS_ONLY)


@dataclass(frozen=True)
class Plan:
    """What to deploy, and how much time to spend on it.

    Attributes:
        model: the model file.
        out: folder that receives the bundle and the report, under the model's name.
        name: what to call the model; empty: as its file.
        shapes: concrete shapes at batch 1 of inputs with dynamic axes; what is not given is found by trying.
            A format that does not know its shapes takes them from here, and a name for an axis that stays open.
        values: the value an input must hold, such as a sample rate.
        options: of the format's reader, as text, such as {"signature": "serving_default"}.
        budget_s: how long the tuner may measure.
        load_s: length of each load test.
        memory_limit_bytes: refuse a larger model; None: a share of this machine's memory.
        data: calibration data, a .npz or .npy; "generated" for made-up inputs; empty: none, and full precision.
        labels: a .npy with the true class of each item; None: not known.
        metric: what counts as accuracy, "fidelity" or "top1".
        accuracy_drop: how much of it may be lost; None: 0.05 of fidelity, 0.01 of top1.
        precision: "fp32"; "int8", "int8-weights" or "int4-weights", which must be within the accuracy budget, be
            it faster or not (weights alone are judged by generated inputs where there are no data); or "auto",
            fewer bits only where they are faster and within it.
    """

    model: Path
    out: Path
    name: str = ""
    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    budget_s: float = 30.0
    load_s: float = 5.0
    memory_limit_bytes: int | None = None
    data: str = ""
    labels: Path | None = None
    metric: str = "fidelity"
    accuracy_drop: float | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        for what, seconds, most in (("tune", self.budget_s, 86_400), ("load", self.load_s, 600)):
            if not 0 < seconds <= most:
                raise ConfigError(f"cannot {what} for {seconds:g} s", f"0 to {most} s are possible")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"there is no precision {self.precision!r}", f"there are {', '.join(PRECISIONS)}"
            )
        if self.precision == "int8" and not self.data:
            raise ConfigError(
                "int8 needs calibration data", "ranges and accuracy are measured on it", "Give --data FILE."
            )
        if self.labels is not None and not self.data:
            raise ConfigError("labels need data", "they are the classes of its items", "Give --data FILE.")
        # It raises where the budget makes no sense.
        quantise.budget_of(self.metric, self.accuracy_drop, labelled=self.labels is not None)


@dataclass(frozen=True)
class Served:
    """One way of serving a model, measured.

    Attributes:
        setup: engine, threads, batching, in words.
        start_s: from starting the process to its first answer being possible.
        saturated: closed loop, always some requests waiting: the most it can do.
        shared: open loop, the same arrivals for both ways.
    """

    setup: str
    start_s: float
    saturated: Evaluation
    shared: Evaluation


@dataclass(frozen=True)
class Deployment:
    """Everything a deployment found out.

    Attributes:
        source: the graph as it was read.
        model: the graph after the passes; `profile.variant` says which of the two the bundle carries.
        cost_before, cost_after: of those two, for one item.
        notes: what the passes did, and where they refused.
        precision_notes: what of fewer bits did not compete, and why.
    """

    name: str
    bundle: Path
    report: Path
    source: Model
    model: Model
    shapes: Shapes
    platform: PlatformProfile
    notes: tuple[Rewrite | Refusal, ...]
    precision_notes: tuple[str, ...]
    cost_before: Cost
    cost_after: Cost
    profile: Profile
    equivalence: Equivalence
    before: Served
    after: Served
    stage_s: Mapping[str, float]

    @property
    def traffic_reduction(self) -> float:
        """Share of the intermediate tensors' bytes that the served graph's fused operators need not write.

        Computed from the graph. Engines inline fused operators and then fuse in their own way, so it is a
        figure of the graph, not a measurement of memory.
        """
        before = self.cost_before.intermediate_bytes
        if self.profile.variant == "source" or not before:
            return 0.0
        return 1.0 - self.cost_after.intermediate_bytes / before

    def to_json(self) -> dict[str, Any]:
        """The figures, as plain JSON values."""
        return {
            "model": self.name,
            "bundle": str(self.bundle),
            "report": str(self.report),
            "platform": self.platform.key,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "memory_traffic_reduction": self.traffic_reduction,
            "equivalence": self.equivalence.to_json(),
            "precision_notes": list(self.precision_notes),
            "before": asdict(self.before),
            "after": asdict(self.after),
            "stage_s": dict(self.stage_s),
        }
