"""What a model is and what it asks of a machine: operators, arithmetic, traffic, and the least time they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raceline.ir import Model, NodeCost, PlatformProfile, cost


@dataclass(frozen=True)
class OperatorShare:
    """All nodes of one operator together.

    Attributes:
        operator: with its domain, unless that is ONNX's own; a fused operator without the number of its body.
        count: nodes.
        flops: arithmetic, two for a multiply-add.
        moved_bytes: intermediate tensors read and written.
        weight_bytes: weights read.
        time_s: the least time on the platform: of each node the longer of computing at peak and of moving all it
            reads and writes at the memory's speed; None where the platform's figures are unknown.
        bound: what that time is spent on: "compute" or "memory"; empty where it is unknown or zero.
    """

    operator: str
    count: int
    flops: int
    moved_bytes: int
    weight_bytes: int
    time_s: float | None
    bound: str


@dataclass(frozen=True)
class Inspection:
    """One model, computed from its graph; nothing is measured.

    Attributes:
        name: the model's.
        source: file, format and producer.
        notes: what the reader did that a caller should know of.
        opsets: domain -> version.
        inputs, outputs: the signature in words.
        dynamic_axes: names of open axes.
        batch_axis: along which items are independent; None where that is not proven.
        sizes: of the open axes, with which the rest was computed.
        nodes: how many.
        weight_bytes: all weights, each once.
        flops, moved_bytes: of one run.
        time_s: the sum of the operators' least times.
        platform: whose figures these are.
        operators: the most expensive first.
        uncounted: nodes whose inner work the shapes do not tell.
    """

    name: str
    source: dict[str, str]
    notes: tuple[str, ...]
    opsets: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_axes: tuple[str, ...]
    batch_axis: str | None
    sizes: dict[str, int]
    nodes: int
    weight_bytes: int
    flops: int
    moved_bytes: int
    time_s: float | None
    platform: str
    operators: tuple[OperatorShare, ...]
    uncounted: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def inspect_model(model: Model, sizes: Mapping[str, int], platform: PlatformProfile) -> Inspection:
    """Look at a model.

    Args:
        model: stays as it is.
        sizes: the size of every dynamic axis.
        platform: whose peak FP32 rate and memory bandwidth set the least times, all cores at work.

    Raises:
        ShapeError: a size is missing, or the model cannot take these.
        UnsupportedOperatorError: operators without a definition.
    """
    figures = cost(model, sizes)
    groups: dict[str, list[NodeCost]] = {}
    for row in figures.rows:
        groups.setdefault(_kind(row.operator), []).append(row)
    shares = [_share(name, rows, platform) for name, rows in groups.items()]
    shares.sort(key=lambda s: (-(s.time_s or 0.0), -s.flops, -s.moved_bytes, s.operator))
    times = [share.time_s for share in shares]
    signature, origin = model.signature, model.provenance
    return Inspection(
        name=model.name,
        source={"file": origin.source, "format": origin.source_format, "producer": origin.producer},
        notes=origin.steps,
        opsets={domain or "ai.onnx": version for domain, version in model.program.opset_imports.items()},
        inputs=tuple(map(str, signature.inputs)),
        outputs=tuple(map(str, signature.outputs)),
        dynamic_axes=signature.dynamic_axes,
        batch_axis=signature.batch_axis,
        sizes=dict(sizes),
        nodes=len(figures.rows),
        weight_bytes=figures.weight_bytes,
        flops=figures.flops,
        moved_bytes=figures.intermediate_bytes,
        time_s=None if None in times else sum(time for time in times if time is not None),
        platform=platform.name,
        operators=tuple(shares),
        uncounted=figures.uncounted,
    )


def _kind(operator: str) -> str:
    """An operator's name; bodies of one fused operator count together."""
    domain, dot, name = operator.rpartition(".")
    return f"{domain}.{name.split('_')[0]}" if domain == "raceline" else f"{domain}{dot}{name}"


def _share(name: str, rows: list[NodeCost], platform: PlatformProfile) -> OperatorShare:
    peak, bandwidth = platform.peak_ops_per_s("fp32"), platform.memory_bytes_per_s
    computing = [row.flops / peak for row in rows] if peak else []
    moving = [(row.moved_bytes + row.weight_bytes) / bandwidth for row in rows] if bandwidth else []
    known = bool(computing and moving)
    time_s = sum(map(max, computing, moving)) if known else None
    bound = ("compute" if sum(computing) > sum(moving) else "memory") if time_s else ""
    return OperatorShare(
        operator=name,
        count=len(rows),
        flops=sum(row.flops for row in rows),
        moved_bytes=sum(row.moved_bytes for row in rows),
        weight_bytes=sum(row.weight_bytes for row in rows),
        time_s=time_s,
        bound=bound,
    )
