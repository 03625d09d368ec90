"""Qualcomm's HTP behind ONNX Runtime's QNN provider: quantised, static shapes, the rest on the CPU."""

from __future__ import annotations

from raceline.convert.targets.drafting import (
    Draft,
    Wish,
    export_command,
    fallback_decision,
    finished,
    fixed_sizes,
    precision_for,
    quantise_steps,
    shapes_decision,
)
from raceline.convert.targets.graph import Facts
from raceline.convert.targets.partition import CPU, share_out
from raceline.convert.targets.plan import Decision, TargetPlan
from raceline.convert.targets.roofline import Device
from raceline.convert.targets.support import table
from raceline.ir import PlatformProfile
from raceline.ir.platform import EngineChoice

QNN = "QNNExecutionProvider"
_DOC = "onnxruntime-qnn, QNN execution provider"


def plan(facts: Facts, platform: PlatformProfile, choice: EngineChoice, wish: Wish) -> TargetPlan:
    """A plan for a Hexagon NPU."""
    device = Device(platform)
    precision, decided = precision_for(facts, choice, device, wish, _DOC)
    partition = share_out(facts, [(QNN, table("qnn"))])
    mode = "burst" if wish.goal == "latency" else "sustained_high_performance"
    options = {
        "backend_type": "htp",
        "htp_performance_mode": mode,
        "htp_graph_finalization_optimization_mode": "3",
        "enable_htp_fp16_precision": str(int(precision != "int8")),
        "offload_graph_io_quantization": "1",
    }
    decisions = (
        Decision("providers", f"{QNN} > {CPU}", choice.reason, platform.source),
        decided,
        Decision("batch", "1", "an item more is an item's time more on one NPU, and shapes are static", _DOC),
        shapes_decision(facts, 1, "QNN does not take models with dynamic shapes", _DOC),
        Decision(
            "layout", "NCHW outside, NHWC inside",
            "the HTP computes channels-last: the provider turns the graph around, with a Transpose at its ends",
            "onnxruntime, layout transformation of providers that prefer NHWC",
        ),
        Decision("power", mode, "the goal is " + wish.goal, _DOC),
        Decision(
            "prepare", "3", "the longest preparation gives the best graph; it is kept in the context file", _DOC
        ),
        fallback_decision(partition, QNN),
    )  # fmt: skip
    session = {
        **fixed_sizes(facts, 1),
        "ep.context_enable": "1",
        "session.disable_cpu_ep_fallback": str(int(not partition.fallbacks)),
    }
    draft = Draft(
        device, choice, partition, precision, "NCHW outside, NHWC inside", 1, 0, ((QNN, options), (CPU, {})),
        session, decisions,
        (
            export_command("qnn"),
            *quantise_steps(facts, choice, wish),
            "there: with session.disable_cpu_ep_fallback=1 a session fails unless the HTP takes the whole graph",
        ),
    )  # fmt: skip
    return finished(facts, draft)
