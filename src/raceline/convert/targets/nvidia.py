"""NVIDIA's GPUs behind ONNX Runtime: TensorRT first where the platform lists it, CUDA's kernels, then the CPU."""

from __future__ import annotations

from dataclasses import replace

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
    shapes_at,
    shapes_decision,
    workspace_for,
)
from raceline.convert.targets.graph import Facts
from raceline.convert.targets.partition import CPU, Partition, on_device, share_out
from raceline.convert.targets.plan import Decision, TargetPlan
from raceline.convert.targets.roofline import WIDTHS, Device
from raceline.convert.targets.support import table
from raceline.ir import PlatformProfile
from raceline.ir.platform import EngineChoice

TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
_TRT_DOC = "onnxruntime.ai, TensorRT execution provider"
_CUDA_DOC = "onnxruntime.ai, CUDA execution provider"
_HALVES = frozenset({"fp16", "bf16"})
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_SMALLEST_ISLAND = 5


def plan(facts: Facts, platform: PlatformProfile, choice: EngineChoice, wish: Wish) -> TargetPlan:
    """A plan for a GPU of NVIDIA."""
    device = Device(platform)
    chain = [CUDA] if choice.provider == CUDA else [TENSORRT, CUDA]
    source = _TRT_DOC if chain[0] == TENSORRT else _CUDA_DOC
    if chain[0] == CUDA:  # it computes in the graph's own type; only TensorRT converts it
        choice = replace(choice, precisions=tuple(name for name in choice.precisions if name not in _HALVES))
    precision, decided = precision_for(facts, choice, device, wish, source)
    partition = share_out(facts, [(name, table(_TABLES[name])) for name in chain])
    workspace, why = workspace_for(device, facts.weight_bytes(WIDTHS[precision]))
    steps = on_device(facts, partition)
    batch, batched = batch_for(facts, steps, device, precision, wish, workspace)
    open_ = _is_open(facts, wish, batch)
    against = _against_graph(facts, partition, chain[0], open_)
    graphs = not against
    half = "fp16" in wish.allow and precision in {"fp16", "int8"}
    options = {
        TENSORRT: _tensorrt(partition, precision, half, workspace, graphs)
        | (_range(facts, batch) if open_ else {}),
        CUDA: _cuda(precision, graphs and chain[0] == CUDA),
    }
    decisions = [
        Decision("providers", " > ".join([*chain, CPU]), choice.reason, platform.source),
        decided,
        *_tf32(precision),
        batched,
        _shapes(facts, batch, open_),
        _layout(chain[0], precision),
        *[Decision("workspace", str(workspace), why, _TRT_DOC)] * (chain[0] == TENSORRT),
        _graph_decision(against),
        fallback_decision(partition, chain[0]),
        *_format(facts, chain[0]),
    ]
    draft = Draft(
        device, choice, partition, precision, _layout(chain[0], precision).choice, batch, workspace,
        (*((name, options[name]) for name in chain), (CPU, {})),
        _session(facts, precision, open_, batch),
        tuple(decisions),
        (
            export_command("tensorrt-10" if chain[0] == TENSORRT else "onnxruntime"),
            *quantise_steps(facts, choice, wish),
            f"on {platform.name}: run it with I/O binding and compare with the reference before it is served",
        ),
    )  # fmt: skip
    return finished(facts, draft)


def _session(facts: Facts, precision: str, open_: bool, batch: int) -> dict[str, str]:
    settings = {} if open_ else fixed_sizes(facts, batch)
    return settings | ({"environment NVIDIA_TF32_OVERRIDE": "0"} if precision == "fp32" else {})


_TABLES = {TENSORRT: "tensorrt", CUDA: "cuda"}


def _tensorrt(
    partition: Partition, precision: str, half: bool, workspace: int, graphs: bool
) -> dict[str, str]:
    options = {
        "device_id": "0",
        "trt_max_workspace_size": str(workspace),
        "trt_fp16_enable": str(half),
        "trt_int8_enable": str(precision == "int8"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "CACHE_FOLDER",
        "trt_timing_cache_enable": "True",
        "trt_cuda_graph_enable": str(graphs),
    }
    if precision == "bf16":
        options["trt_bf16_enable"] = "True"
    if partition.fallbacks:
        options["trt_min_subgraph_size"] = str(_SMALLEST_ISLAND)
    return options


def _range(facts: Facts, batch: int) -> dict[str, str]:
    """For which shapes one engine is built."""
    ends = (("min", 1), ("opt", batch), ("max", batch))
    return {f"trt_profile_{end}_shapes": _spelt(facts, items) for end, items in ends}


def _spelt(facts: Facts, batch: int) -> str:
    shapes = shapes_at(facts, batch)
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _cuda(precision: str, graphs: bool) -> dict[str, str]:
    return {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": str(int(precision != "fp32")),
        "prefer_nhwc": str(int(precision in {"fp16", "bf16"})),
        "enable_cuda_graph": str(int(graphs)),
    }


def _tf32(precision: str) -> list[Decision]:
    if precision == "tf32":
        return [
            Decision(
                "tf32", "on", "10 bits of mantissa in products, 32-bit sums; fp16 is not allowed", _CUDA_DOC
            )
        ]
    if precision == "fp32":
        why = "fp32 was asked for, and both providers would round products to TF32 of their own accord"
        return [Decision("tf32", "off", why, f"{_CUDA_DOC}; NVIDIA_TF32_OVERRIDE of CUDA's libraries")]
    return []


def _is_open(facts: Facts, wish: Wish, batch: int) -> bool:
    """Whether the batch axis stays open for a server to fill."""
    return wish.goal == "throughput" and batch > 1 and facts.batch_axis in facts.dynamic_axes


def _shapes(facts: Facts, batch: int, open_: bool) -> Decision:
    if open_:
        why = "a server fills batches as requests come; one engine is built for the whole range"
        return Decision("shapes", f"open: {facts.batch_axis} from 1 to {batch}", why, _TRT_DOC)
    why = "an engine, and a graph that is captured, are built for one shape; another shape builds another"
    return shapes_decision(facts, batch, why, _TRT_DOC)


def _layout(first: str, precision: str) -> Decision:
    if first == TENSORRT:
        why = "inputs stay as the model has them; TensorRT times its own packed layouts while it builds"
        return Decision("layout", "NCHW outside, TensorRT's choice inside", why, _TRT_DOC)
    if precision in {"fp16", "bf16"}:
        why = "Tensor Cores convolve channels-last; prefer_nhwc turns the layout around where it pays"
        return Decision("layout", "NCHW outside, NHWC inside", why, _CUDA_DOC)
    return Decision("layout", "NCHW", "cuDNN's FP32 convolutions take it as it is", _CUDA_DOC)


def _against_graph(facts: Facts, partition: Partition, first: str, open_: bool) -> str:
    """Why no captured graph can hold a whole run; empty where one can."""
    if any(owner != first for owner in partition.owners):
        return f"not every node is on {first}"
    if partition.unknown:
        return f"it is not known that {first} takes every node"
    if any(step.operator in _CONTROL_FLOW for step in facts.steps):
        return "the model has branches or loops"
    return "the shapes vary" if open_ else ""


def _graph_decision(against: str) -> Decision:
    if against:
        return Decision("graph", "not captured", against, _CUDA_DOC)
    why = "all nodes are on one provider and shapes are fixed; a run is one launch; inputs must be bound"
    return Decision("graph", "captured", why, f"{_CUDA_DOC}, CUDA graphs")


def _format(facts: Facts, first: str) -> list[Decision]:
    opsets = table(_TABLES[first]).opsets
    if opsets is None or opsets[0] <= facts.opset <= opsets[1]:
        return []
    whose = table(_TABLES[first])
    why = f"the model is of opset {facts.opset}, and {whose.whose} reads {opsets[0]} to {opsets[1]}"
    return [Decision("format", "convert the opset", why, whose.source)]
