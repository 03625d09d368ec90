"""Matrix products, attention, layer norm and GELU of our own beside the engines', one operator at a time.

    taskset -c 1 .venv/bin/python -m benchmarks._native_dense [--json] [--seconds 0.5] [--only TEXT]

Every operator is a model of its own, at the shapes of ViT-Ti/16 and MiniLM-L6, run through each runtime's leanest
interface with its inputs in place: one thread, interleaved, least time of many. Where an engine knows several
spellings of an operator (a contrib operator, a fused one), the fastest counts. The share of peak is of the FP32
rate that the probe measures on this core in the same minute, at the operator's nominal arithmetic: Strassen's
algorithm does less, and may pass 100 %.
"""

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from raceline import _native  # noqa: PLC2701  the kernels themselves are measured
from raceline.core.process import silenced

Arrays = dict[str, "np.ndarray[Any, Any]"]
Run = Callable[[], Any]
OPSET, IR_VERSION, CONTRIB = 20, 9, "com.microsoft"
ENGINES = ("onnxruntime", "openvino", "mnn")


@dataclass
class Kernel:
    """One operator: our own call, its spellings as ONNX models, and its nominal operations.

    Attributes:
        out: what `native` fills, in the layout of the models' output `y`.
    """

    name: str
    operations: int
    feeds: Arrays
    native: Run
    out: "np.ndarray[Any, Any]"
    models: list[Any]
    spellings: dict[str, list[Any]] = field(
        default_factory=dict
    )  # engine -> more models, which it alone reads


def _draw(*shape: int, scale: float = 1.0) -> "np.ndarray[Any, Any]":
    return (np.random.default_rng(len(shape)).standard_normal(shape) * scale).astype(np.float32)


def _model(nodes: list[Any], feeds: Arrays, shape: tuple[int, ...], constants: Arrays) -> Any:
    def info(name: str, sizes: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

    graph = helper.make_graph(
        nodes,
        "kernel",
        [info(name, array.shape) for name, array in feeds.items()],
        [info("y", shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
    if all(node.domain != CONTRIB for node in nodes):
        opsets.pop()
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def linear(rows: int, k: int, n: int, gelu: bool = False) -> Kernel:
    """Weights and a bias, perhaps with GELU (erf form)."""
    node = helper.make_node
    feeds, constants = {"x": _draw(rows, k)}, {"w": _draw(k, n, scale=k**-0.5), "b": _draw(n)}
    last, activation = ("z", [node("Gelu", ["z"], ["y"])]) if gelu else ("y", [])
    split = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "b"], [last]), *activation]
    joint = [node("Gemm", ["x", "w", "b"], [last]), *activation]
    models = [_model(nodes, feeds, (rows, n), constants) for nodes in (split, joint)]
    spellings = {}
    if gelu:
        biased = [node("MatMul", ["x", "w"], ["p"]), node("BiasGelu", ["p", "b"], ["y"], domain=CONTRIB)]
        spellings["onnxruntime"] = [_model(biased, feeds, (rows, n), constants)]
    own = _native.Linear(constants["w"], constants["b"], rows=rows, seconds=0.2)
    out = np.empty((rows, n), np.float32)
    activation_name = "gelu" if gelu else ""
    name = f"linear{'+gelu' if gelu else ''} {rows}x{k}x{n}"
    return Kernel(
        name,
        2 * rows * k * n,
        feeds,
        lambda: own.run(feeds["x"], out, activation=activation_name),
        out,
        models,
        spellings,
    )


def attention(batch: int, heads: int, size: int, depth: int, masked: bool) -> Kernel:
    """Softmax(q k^T / sqrt(depth) + mask) v; inputs (batch, size, heads * depth), as projections leave them."""
    node, width = helper.make_node, heads * depth
    feeds = {name: _draw(batch, size, width) for name in "qkv"}
    if masked:
        feeds["m"] = np.zeros((batch, 1, 1, size), np.float32)
    split = [node("Reshape", [name, "split"], [name + "4"]) for name in "qkv"]
    turned = [
        node("Transpose", [f"{name}4"], [f"{name}h"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])
        for name in "qkv"
    ]
    scores = [node("MatMul", ["qh", "kh"], ["s"]), node("Mul", ["s", "scale"], ["t"])]
    weights = [node("Add", ["t", "m"], ["u"])] if masked else []
    rest = [
        node("Softmax", ["u" if masked else "t"], ["w"], axis=-1),
        node("MatMul", ["w", "vh"], ["o"]),
        node("Transpose", ["o"], ["o4"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o4", "join"], ["y"]),
    ]
    constants = {
        "split": np.array([batch, size, heads, depth]),
        "join": np.array([batch, size, width]),
        "scale": np.float32(depth**-0.5),
    }
    shape = (batch, size, width)
    whole = _model([*split, *turned, *scores, *weights, *rest], feeds, shape, constants)
    inputs = ["q", "k", "v", *(["", "", "m4"] if masked else [])]
    fused = [node("MultiHeadAttention", inputs, ["y"], domain=CONTRIB, num_heads=heads)]
    if masked:  # its bias is not broadcast along the queries
        sizes = np.array([batch, 1, size, size])
        fused.insert(0, node("Expand", ["m", "sizes"], ["m4"]))
        constants_fused = {"sizes": sizes}
    else:
        constants_fused = {}
    own = [feeds[name].reshape(batch, size, heads, depth).transpose(0, 2, 1, 3) for name in "qkv"]
    out = np.empty(shape, np.float32)
    into = out.reshape(batch, size, heads, depth).transpose(0, 2, 1, 3)
    return Kernel(
        f"attention {batch}x{heads}x{size}x{depth}{' masked' if masked else ''}",
        4 * batch * heads * size * size * depth,
        feeds,
        lambda: _native.attention(*own, into, feeds.get("m"), scale=depth**-0.5),
        out,
        [whole],
        {"onnxruntime": [_model(fused, feeds, shape, constants_fused)]},
    )


def layer_norm(rows: int, columns: int) -> Kernel:
    """Counted as eight operations an element."""
    feeds, constants = {"x": _draw(rows, columns)}, {"g": _draw(columns), "b": _draw(columns, scale=0.5)}
    nodes = [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=-1)]
    out = np.empty((rows, columns), np.float32)
    return Kernel(
        f"layer_norm {rows}x{columns}",
        8 * rows * columns,
        feeds,
        lambda: _native.layer_norm(feeds["x"], out, constants["g"], constants["b"], epsilon=1e-5),
        out,
        [_model(nodes, feeds, (rows, columns), constants)],
    )


def kernels() -> Iterator[Kernel]:
    """The operators of ViT-Ti/16 (197 tokens) and MiniLM-L6 (128), at batch 1 and 8, and products of few rows."""
    for batch in (1, 8):
        for k, n in ((192, 192), (192, 576), (768, 192)):
            yield linear(197 * batch, k, n)
        yield linear(197 * batch, 192, 768, gelu=True)
        for k, n in ((384, 384), (1536, 384)):
            yield linear(128 * batch, k, n)
        yield linear(128 * batch, 384, 1536, gelu=True)
        yield attention(batch, 3, 197, 64, masked=False)
        yield attention(batch, 12, 128, 32, masked=True)
    for rows in (1, 4, 16):
        yield linear(rows, 384, 1536)
    yield layer_norm(197, 192)
    yield layer_norm(128, 384)


def on_onnxruntime(model: Any, feeds: Arrays) -> tuple[Run, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    shape = session.run(None, feeds)[0].shape
    out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)
    binding.bind_ortvalue_output("y", out)
    return lambda: session.run_with_iobinding(binding), out.numpy


def on_openvino(model: Any, feeds: Arrays) -> tuple[Run, Run]:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
                "ENABLE_CPU_PINNING": False}  # fmt: skip
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    request = compiled.create_infer_request()
    for name, array in feeds.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
    return request.infer, lambda: request.get_output_tensor(0).data


def on_mnn(model: Any, feeds: Arrays) -> tuple[Run, Run]:
    with silenced(), tempfile.TemporaryDirectory() as folder:
        tools, mnn = importlib.import_module("_tools"), importlib.import_module("MNN")
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.mnn"
        onnx.save(model, source)
        arguments = [
            "-f",
            "ONNX",
            "--modelFile",
            str(source),
            "--MNNModel",
            str(target),
            "--bizCode",
            "raceline",
        ]
        tools.mnnconvert(["mnnconvert", *arguments])
        net = mnn.Interpreter(str(target))
    with silenced():
        session = net.createSession({"backend": "CPU", "precision": "high", "numThread": 1})
    inputs = net.getSessionInputAll(session)
    for name, array in feeds.items():
        net.resizeTensor(inputs[name], array.shape)
    net.resizeSession(session)
    staged = [
        (
            inputs[name],
            mnn.Tensor(array.shape, inputs[name].getDataType(), array, mnn.Tensor_DimensionType_Caffe),
        )
        for name, array in feeds.items()
    ]

    def result() -> "np.ndarray[Any, Any]":
        for tensor, host in staged:  # it reuses its inputs' memory for what comes later
            tensor.copyFrom(host)
        net.runSession(session)
        out = net.getSessionOutput(session, "y")
        host = mnn.Tensor(
            out.getShape(),
            out.getDataType(),
            np.zeros(out.getShape(), np.float32),
            mnn.Tensor_DimensionType_Caffe,
        )
        out.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(out.getShape())

    result()
    return lambda: (net.runSession(session), staged), result


def runs_of(kernel: Kernel) -> dict[str, list[Run]]:
    """What each engine can run, checked against our own result.

    Raises:
        AssertionError: two engines disagree, so that their times cannot be compared.
    """
    kernel.native()
    found: dict[str, list[Run]] = {"native": [kernel.native]}
    for engine, make in zip(ENGINES, (on_onnxruntime, on_openvino, on_mnn), strict=True):
        for model in [*kernel.models, *kernel.spellings.get(engine, [])]:
            run, result = make(model, kernel.feeds)
            run()
            np.testing.assert_allclose(result(), kernel.out, atol=2e-3, err_msg=f"{kernel.name} on {engine}")
            found.setdefault(engine, []).append(run)
    return found


def least_seconds(runs: dict[str, list[Run]], seconds: float) -> dict[str, float]:
    """Least time of each engine, interleaved, after three warm runs."""
    every = [(engine, run) for engine, several in runs.items() for run in several]
    least = dict.fromkeys(runs, float("inf"))
    for _, run in every * 3:
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for engine, run in every:
            for _ in range(3):
                start = time.perf_counter()
                run()
                least[engine] = min(least[engine], time.perf_counter() - start)
    return least


def measure(seconds: float, only: str = "") -> dict[str, dict[str, float]]:
    """Least seconds of each kernel on each engine, and `peak`, its time at this core's FP32 peak."""
    instruction_set = next(s for p, s in reversed(_native.kernels()) if p == "fp32")
    found = {}
    for kernel in kernels():
        if only not in kernel.name:
            continue
        rate = _native.measure_ops_per_s("fp32", instruction_set, [])
        found[kernel.name] = {**least_seconds(runs_of(kernel), seconds), "peak": kernel.operations / rate}
    return found


def shares_of_peak(times: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Figure `native_kernel_share_of_peak`: kernel -> engine -> share."""
    return {
        kernel: {engine: round(row["peak"] / took, 3) for engine, took in row.items() if engine != "peak"}
        for kernel, row in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each kernel, all engines together")
    parser.add_argument("--only", default="", help="kernels whose names hold this text")
    chosen = parser.parse_args()
    times = measure(chosen.seconds, chosen.only)
    shares = shares_of_peak(times)
    table = Table(
        "kernel", "native", *ENGINES, "gain over the best", title="least microseconds (share of peak)"
    )
    for name, row in times.items():
        best = min(row[engine] for engine in ENGINES)
        cells = [f"{row[e] * 1e6:.1f} ({shares[name][e]:.0%})" for e in ("native", *ENGINES)]
        table.add_row(name, *cells, f"{best / row['native']:.2f}")
    Console(width=130).print(table)
    if chosen.json:
        print(json.dumps({"native_kernel_share_of_peak": shares}))


if __name__ == "__main__":
    main()
