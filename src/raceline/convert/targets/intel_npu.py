"""Intel's NPU behind OpenVINO: one compiled piece, static shapes, fp16 or int8."""

from __future__ import annotations

from raceline.convert.targets.drafting import (
    Draft,
    Wish,
    fallback_decision,
    finished,
    precision_for,
    quantise_steps,
    shapes_decision,
)
from raceline.convert.targets.graph import Facts
from raceline.convert.targets.partition import share_out
from raceline.convert.targets.plan import Decision, TargetPlan
from raceline.convert.targets.roofline import Device
from raceline.convert.targets.support import table
from raceline.ir import PlatformProfile
from raceline.ir.platform import EngineChoice

_DOC = "docs.openvino.ai, NPU device"
_BATCHING = "docs.openvino.ai, batching on the NPU plug-in"


def plan(facts: Facts, platform: PlatformProfile, choice: EngineChoice, wish: Wish) -> TargetPlan:
    """A plan for an NPU of Intel."""
    device = Device(platform)
    precision, decided = precision_for(facts, choice, device, wish, _DOC)
    partition = share_out(facts, [("NPU", table("openvino_npu"))])
    soon = wish.goal == "latency"
    options = {
        "PERFORMANCE_HINT": "LATENCY" if soon else "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": "1" if soon else "4",
        "CACHE_DIR": "CACHE_FOLDER",
    }
    if precision != "int8":
        options["INFERENCE_PRECISION_HINT"] = "f16"
    decisions = (
        Decision("providers", "NPU", choice.reason, platform.source),
        decided,
        Decision(
            "batch", "1", "the plug-in compiles larger batches as items one after another", _BATCHING
        ),
        Decision(
            "requests", options["PERFORMANCE_HINT_NUM_REQUESTS"],
            "the number that the plug-in itself recommends for this goal; they run side by side", _DOC,
        ),
        shapes_decision(facts, 1, "the NPU takes static shapes only", _DOC),
        Decision("layout", "as the model has it", "the NPU's compiler chooses its own inside", _DOC),
        fallback_decision(partition, "NPU"),
    )  # fmt: skip
    others = [c.provider for c in platform.engines if c.provider not in {"NPU", "CPU"}]
    instead = f"HETERO:NPU,{','.join([*others, 'CPU'])}"
    draft = Draft(
        device, choice, partition, precision, "as the model has it", 1, 0, (("NPU", options),), {}, decisions,
        (
            "raceline convert MODEL --to openvino -o OUT_IR --set fp16=true",
            *_reshape(facts),
            *quantise_steps(facts, choice, wish),
            "there: openvino.Core().query_model(model, 'NPU') names the nodes that its compiler takes; where some "
            f"are missing, compile for {instead}, which the NPU supports for certain models only",
        ),
    )  # fmt: skip
    return finished(facts, draft)


def _reshape(facts: Facts) -> list[str]:
    if not facts.dynamic_axes:
        return []
    shapes = ", ".join(f"{name!r}: {list(shape)}" for name, shape in facts.inputs.items())
    return [f"there, before it is compiled: model.reshape({{{shapes}}})"]
