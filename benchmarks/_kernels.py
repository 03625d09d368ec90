"""Kernels of our own beside the engines', one operator at a time: what every such benchmark shares.

An operator is a model of its own, run through each runtime's leanest interface with its inputs in place: one
thread, interleaved, the least computing time of many calls. Where an engine knows several spellings of an operator
(a contrib operator, a fused one), the fastest counts.

The share is of the roofline: of the rate that the probe's loop reaches on this core in the same minute, FP32
where a kernel names no other, or, where moving the operator's bytes takes longer, of the rate at which a STREAM
triad over as many bytes moves them. Arithmetic is the operator's nominal one: Winograd's and Strassen's algorithms
do less, and may pass 100 %.
"""

import importlib
import tempfile
import time
from collections.abc import Callable, Iterable
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
LEAST_TRIAD_BYTES = 1 << 16
LOOSE = 5e-3  # of the largest output, for two engines to agree: MNN's Winograd is that far off


@dataclass
class Kernel:
    """One operator: our own call, its spellings as ONNX models, and its nominal operations.

    Attributes:
        out: what `native` fills, in the layout of the models' output `y`.
        weight_bytes: that are read besides.
        alone: least seconds of the kernel itself within a net, where that differs from `native`: without moving
            values in and out of its blocks, which the other engines do in a model of one operator too.
        rate: precision and instruction set of the peak; where None, FP32 on this CPU's best.
        atol: how far engines may be apart; where None, `LOOSE` of the largest output.
        without: engines that cannot run it.
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
    weight_bytes: int = 0
    alone: Callable[[], float] | None = None
    rate: tuple[str, str] | None = None
    atol: float | None = None
    without: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Read and written at least once."""
        return sum(a.nbytes for a in self.feeds.values()) + self.out.nbytes + self.weight_bytes


def draw(*shape: int, scale: float = 1.0) -> "np.ndarray[Any, Any]":
    return (np.random.default_rng(len(shape)).standard_normal(shape) * scale).astype(np.float32)


def model_of(nodes: list[Any], feeds: Arrays, shape: tuple[int, ...], constants: Arrays) -> Any:
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
    out = onnxruntime.OrtValue.ortvalue_from_numpy(session.run(None, feeds)[0])
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
    atol = LOOSE * max(1.0, float(np.abs(kernel.out).max())) if kernel.atol is None else kernel.atol
    found: dict[str, list[Run]] = {"native": [kernel.native]}
    for engine, make in zip(ENGINES, (on_onnxruntime, on_openvino, on_mnn), strict=True):
        shared = [] if engine in kernel.without else kernel.models
        for model in [*shared, *kernel.spellings.get(engine, [])]:
            run, result = make(model, kernel.feeds)
            run()
            apart = float(np.abs(result().astype(float) - kernel.out).max(initial=0))
            assert apart <= atol, f"{kernel.name} on {engine}: {apart} apart"
            found.setdefault(engine, []).append(run)
    return found


def least_seconds(runs: dict[str, list[Run]], seconds: float) -> dict[str, float]:
    """Least computing time of each engine, interleaved, after three warm runs."""
    every = [(engine, run) for engine, several in runs.items() for run in several]
    least = dict.fromkeys(runs, float("inf"))
    for _, run in every * 3:
        run()
    end = time.process_time() + seconds
    while time.process_time() < end:
        for engine, run in every:
            for _ in range(3):
                start = time.process_time()
                run()
                least[engine] = min(least[engine], time.process_time() - start)
    return least


def measure(kernels: Iterable[Kernel], seconds: float, only: str = "") -> dict[str, dict[str, float]]:
    """Least seconds of each kernel on each engine, and its time at the roofline.

    Args:
        kernels: made one after another.
        seconds: of computing for each.
        only: kernels whose names hold this text.
    """
    instruction_set = next(s for p, s in reversed(_native.kernels()) if p == "fp32")
    found = {}
    for kernel in kernels:
        if only not in kernel.name:
            continue
        rate = _native.measure_ops_per_s(*(kernel.rate or ("fp32", instruction_set)), [])
        moved = _native.measure_triad_bytes_per_s(max(kernel.size_bytes, LEAST_TRIAD_BYTES), [])
        roof = {"arithmetic": kernel.operations / rate, "bytes": kernel.size_bytes / moved}
        found[kernel.name] = least_seconds(runs_of(kernel), seconds) | roof
        if kernel.alone is not None:
            found[kernel.name]["native_alone"] = kernel.alone()
    return found


def shares_of_peak(times: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Figure `native_kernel_share_of_peak`: kernel -> engine -> share of the roofline."""
    return {
        kernel: {
            engine: round(max(row["arithmetic"], row["bytes"]) / took, 3)
            for engine, took in row.items()
            if engine not in {"arithmetic", "bytes"}
        }
        for kernel, row in times.items()
    }


def show(times: dict[str, dict[str, float]]) -> None:
    """A line for each kernel."""
    shares = shares_of_peak(times)
    title = "least microseconds (share of the roofline)"
    table = Table("kernel", "bound by", "native", "alone", *ENGINES, "gain over the best", title=title)
    for name, row in times.items():
        peers = [row[engine] for engine in ENGINES if engine in row]
        cells = [
            f"{row[e] * 1e6:.1f} ({shares[name][e]:.0%})" if e in row else ""
            for e in ("native", "native_alone", *ENGINES)
        ]
        bound = max(("arithmetic", "bytes"), key=row.__getitem__)
        table.add_row(name, bound, *cells, f"{min(peers) / row['native']:.2f}" if peers else "")
    Console(width=160).print(table)
