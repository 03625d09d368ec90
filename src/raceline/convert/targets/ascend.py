"""Huawei's Ascend behind ONNX Runtime's CANN provider: fp16 on the Cube unit, whole graphs, one chip a session."""

from __future__ import annotations

from raceline.convert.targets.drafting import (
    Draft,
    Wish,
    batch_for,
    export_command,
    fallback_decision,
    finished,
    fixed_sizes,
    precision_for,
    quantise_steps,
    shapes_decision,
    workspace_for,
)
from raceline.convert.targets.graph import Facts
from raceline.convert.targets.partition import CPU, on_device, share_out
from raceline.convert.targets.plan import Decision, TargetPlan
from raceline.convert.targets.roofline import WIDTHS, Device
from raceline.convert.targets.support import table
from raceline.ir import PlatformProfile
from raceline.ir.platform import EngineChoice

CANN = "CANNExecutionProvider"
_DOC = "onnxruntime.ai, CANN execution provider"
_MODES = {"fp16": "force_fp16", "fp32": "force_fp32", "int8": "must_keep_origin_dtype"}


def plan(facts: Facts, platform: PlatformProfile, choice: EngineChoice, wish: Wish) -> TargetPlan:
    """A plan for an Ascend card."""
    device = Device(platform, 1 / platform.cores)
    precision, decided = precision_for(facts, choice, device, wish, _DOC)
    partition = share_out(facts, [(CANN, table("cann"))])
    arena, why = workspace_for(device, facts.weight_bytes(WIDTHS[precision]))
    batch, batched = batch_for(facts, on_device(facts, partition), device, precision, wish, arena)
    mode = _MODES.get(precision, "must_keep_origin_dtype")
    options = {
        "device_id": "0",
        "npu_mem_limit": str(arena),
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cann_graph": "1",
        "precision_mode": mode,
        "op_select_impl_mode": "high_performance",
    }
    decisions = (
        Decision("providers", f"{CANN} > {CPU}", choice.reason, platform.source),
        decided,
        Decision("mode", mode, f"CANN converts the graph's FP32 by this setting; the plan is {precision}", _DOC),
        Decision(
            "chip", f"1 of {platform.cores}",
            "a session runs on one device; rates, bandwidth and memory below are one chip's share", platform.source,
        ),
        batched,
        shapes_decision(facts, batch, "a graph is compiled for one shape; another shape compiles another", _DOC),
        Decision(
            "layout", "NCHW outside, CANN's NC1HWC0 and NZ inside",
            "the Cube unit multiplies blocks of 16 x 16; CANN converts at the ends of the graph only",
            "hiascend.com, CANN data formats",
        ),
        Decision("workspace", str(arena), why, _DOC),
        Decision("graph", "whole", "subgraphs are compiled whole; the other mode runs node by node", _DOC),
        fallback_decision(partition, CANN),
    )  # fmt: skip
    draft = Draft(
        device, choice, partition, precision, "NCHW outside, CANN's NC1HWC0 and NZ inside", batch, arena,
        ((CANN, options), (CPU, {})), fixed_sizes(facts, batch), decisions,
        (
            export_command("onnxruntime-1.22"),
            *quantise_steps(facts, choice, wish),
            "there: dump_graphs=1 shows which subgraphs CANN took; bind inputs and outputs to the device",
            *[f"open one session for each of the {platform.cores} chips: device_id 0 to {platform.cores - 1}"]
            * (platform.cores > 1),
        ),
    )  # fmt: skip
    return finished(facts, draft)
