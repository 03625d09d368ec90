"""Traffic of intermediate tensors in the graph that ONNX Runtime's own optimiser leaves, by our rules."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

# As in raceline.ir.cost: these rename, read no elements, or read as much as they write.
RENAMING = frozenset("Dropout Flatten Identity Reshape Squeeze Unsqueeze Shape Size Constant".split())
SELECTING = frozenset("Gather GatherElements GatherND Slice".split())


def runtime_traffic_bytes(path: Path, feeds: Mapping[str, np.ndarray[Any, Any]]) -> int:
    """Bytes that all nodes read and write of tensors that are no weights, after ONNX Runtime has fused.

    The better of its two highest levels: the highest fuses more around convolutions, and adds changes of layout.
    Sizes are those of a run.

    Args:
        path: the model as it came.
        feeds: its inputs.
    """
    levels = onnxruntime.GraphOptimizationLevel
    return min(_after(path, feeds, level) for level in (levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL))


def _after(path: Path, feeds: Mapping[str, np.ndarray[Any, Any]], level: Any) -> int:
    """The traffic that one level of optimisation leaves."""
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(fused)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        proto = onnx.load(fused)
    fixed = _fixed(proto)
    sizes = {name: array.nbytes for name, array in feeds.items()} | _sizes(proto, feeds)
    return sum(_moved(node, sizes, fixed) for node in proto.graph.node)


def _sizes(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, int]:
    """Bytes of everything that a node writes."""
    named = {output.name for output in proto.graph.output}
    inner = dict.fromkeys(n for node in proto.graph.node for n in node.output if n and n not in named)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return {n: np.asarray(a).nbytes for n, a in zip(names, session.run(None, dict(feeds)), strict=True)}


def _fixed(proto: onnx.ModelProto) -> set[str]:
    """Names of values that depend on weights and shapes alone."""
    fixed = {tensor.name for tensor in proto.graph.initializer} | {""}
    for node in proto.graph.node:
        if node.op_type in {"Shape", "Size"} or all(name in fixed for name in node.input):
            fixed |= set(node.output)
    return fixed


def _moved(node: onnx.NodeProto, sizes: Mapping[str, int], fixed: set[str]) -> int:
    if node.op_type in RENAMING or all(name in fixed for name in node.output):
        return 0
    read = sum(sizes.get(name, 0) for name in dict.fromkeys(node.input) if name not in fixed)
    written = sum(sizes.get(name, 0) for name in node.output if name not in fixed)
    return (min(read, written) if node.op_type in SELECTING else read) + written
