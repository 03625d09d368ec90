"""Convert ONNX to a runtime's own format, or run a file in its runtime.

A script of a child process (see `exporting`): a runtime's crash, prints and threads stay here. It takes `runtime`,
`task` ("write" or "run"), `model` (a path) and, to run, `cases`: files of arrays named 0, 1, ... in the order of
`inputs`. Runtimes are imported by name, beside nothing of Raceline's.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NARROWED = {"int64": np.int32, "bool": np.int32, "float16": np.float32}


def module(name: str) -> Any:
    """A runtime's module."""
    return importlib.import_module(name)


def openvino() -> Any:
    """OpenVINO without its telemetry, which would send an event and write into the home folder."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells "not there"
    return module("openvino")


def write_openvino(given: dict[str, Any]) -> dict[str, Any]:
    """IR from ONNX."""
    runtime = openvino()
    try:
        network = runtime.Core().read_model(given["model"])
        target = os.path.join(given["folder"], "model.xml")
        runtime.save_model(network, target, compress_to_fp16=given["fp16"])
    except RuntimeError as error:
        listing = re.search(r"No conversion rule found for operations: (.*)", str(error))
        missing = [name.strip() for name in listing[1].split(",")] if listing else []
        return {"refused": str(error)[-600:], "operators": missing}
    return {"files": ["model.xml", "model.bin"]}


def run_openvino(given: dict[str, Any]) -> dict[str, Any]:
    """Outputs of IR, or of ONNX."""
    runtime = openvino()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    compiled = runtime.Core().compile_model(given["model"], "CPU", settings)
    taken = {name: port for port in compiled.inputs for name in port.get_names()}

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        results = compiled({name: array for name, array in feeds.items() if name in taken})
        return {name: np.array(results[port]) for port in compiled.outputs for name in port.get_names()}

    return run_cases(given, run)


def write_mnn(given: dict[str, Any]) -> dict[str, Any]:
    """MNN's file from ONNX, by the converter behind its command (the command itself installs packages)."""
    target = os.path.join(given["folder"], "model.mnn")
    arguments = ["-f", "ONNX", "--modelFile", given["model"], "--MNNModel", target, "--bizCode", "raceline"]
    arguments += ["--fp16"] if given["fp16"] else []
    arguments += ["--saveExternalData"] if given["external"] else []
    heard = Path(given["folder"], "heard.txt")
    converter = module("_tools")
    with heard.open("wb") as sink:
        kept = os.dup(1), os.dup(2)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        converter.mnnconvert(["mnnconvert", *arguments])
        sys.stdout.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
    printed = heard.read_text(errors="replace")
    if not os.path.exists(target):
        listing = re.search(r"These Op Not Support: (.*)", printed)
        missing = [name.strip().removeprefix("ONNX::") for name in listing[1].split("|")] if listing else []
        return {"refused": printed[-600:], "operators": missing}
    weights = f"{target}.weight"
    return {"files": ["model.mnn", *(["model.mnn.weight"] if os.path.exists(weights) else [])]}


def run_mnn(given: dict[str, Any]) -> dict[str, Any]:
    """Outputs of MNN's file, in the types that MNN holds them in."""
    module("MNN")
    nn, expr = module("MNN.nn"), module("MNN.expr")
    high = 1  # BackendConfig::Precision_High
    manager = nn.create_runtime_manager(({"backend": 0, "precision": high, "numThread": 1},))
    if os.path.exists(given["model"] + ".weight"):
        manager.set_external(given["model"] + ".weight")
    names = nn.load_module_from_file(given["model"], [], [], runtime_manager=manager).get_info()
    inputs, outputs = names["inputNames"], names["outputNames"]
    network = nn.load_module_from_file(given["model"], inputs, outputs, runtime_manager=manager)
    kinds = {"float32": expr.float, "int32": expr.int, "uint8": expr.uint8}

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        variables = []
        for name in inputs:
            array = np.require(feeds[name], requirements="C")
            array = array.astype(NARROWED.get(array.dtype.name, array.dtype))
            variable = expr.placeholder(list(array.shape), expr.NCHW, kinds[array.dtype.name])
            variable.write(array)
            variables.append(variable)
        results = network.onForward(variables)
        if len(results) != len(outputs):
            raise RuntimeError(f"MNN gives {len(results)} of {len(outputs)} outputs")
        return {name: np.array(result.read()) for name, result in zip(outputs, results, strict=True)}

    return run_cases(given, run)


def run_onnxruntime(given: dict[str, Any]) -> dict[str, Any]:
    """Outputs of ONNX."""
    runtime = module("onnxruntime")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    # By default it rounds activations to 8 bits before products with weights that are stored in few bits.
    settings.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if given.get("plain"):  # computes what the file says, node by node, with none of its own fusions
        settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(given["model"], settings, providers=["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        results = session.run(outputs, {name: array for name, array in feeds.items() if name in taken})
        return dict(zip(outputs, results, strict=True))

    return run_cases(given, run)


def run_cases(given: dict[str, Any], run: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Run each case and leave its outputs in a file of the folder."""
    names: list[str] = []
    for place, path in enumerate(given["cases"]):
        with np.load(path, allow_pickle=False) as held:
            feeds = {name: as_given(held[str(i)]) for i, name in enumerate(given["inputs"])}
        results = run(feeds)
        names = list(results)
        arrays = {str(i): as_stored(results[name]) for i, name in enumerate(names)}
        np.savez(os.path.join(given["folder"], f"out{place}.npz"), **arrays)
    return {"outputs": names}


def as_given(array: Any) -> Any:
    """Text as objects, which runtimes expect."""
    return array.astype(object) if array.dtype.kind == "U" else array


def as_stored(array: Any) -> Any:
    """Text as NumPy stores it without pickling."""
    array = np.asarray(array)
    return array.astype(str) if array.dtype.kind in "OS" else array


TASKS = {
    ("openvino", "write"): write_openvino,
    ("openvino", "run"): run_openvino,
    ("mnn", "write"): write_mnn,
    ("mnn", "run"): run_mnn,
    ("onnxruntime", "run"): run_onnxruntime,
}


def main() -> None:
    """Do the task and leave the answer."""
    given = json.load(sys.stdin)
    try:
        answer = TASKS[given["runtime"], given["task"]](given)
    except ModuleNotFoundError as error:
        answer = {"missing": error.name}
    except Exception as error:  # noqa: BLE001  # each runtime has exceptions of its own; all are told
        answer = {"refused": f"{type(error).__name__}: {error}"[-600:], "operators": []}
    Path(given["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
