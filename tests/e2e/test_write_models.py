"""Pretrained models in other formats: each runs in its own runtime and computes what it did."""

from functools import cache

import numpy as np
import onnx
import pytest
from benchmarks import _models as models
from carried_models import settled

from raceline.convert import IRTranslator, compare_models, settle, writing
from raceline.core.errors import UnsupportedOperatorError
from raceline.ir import write_onnx

FAST = ("nudenet", "ppocr_cls", "silero_vad")
NAMES = [carried.name for carried in models.CARRIED]
WAYS = {
    "onnxruntime-1.12": ("onnx", {"consumer": "onnxruntime-1.12"}),
    "tensorrt-8": ("onnx", {"consumer": "tensorrt-8"}),
    "opset 21": ("onnx", {"opset": 21}),
    "functions and weights beside": ("onnx", {"keep_functions": True, "external_bytes": 1024}),
    "openvino": ("openvino", {}),
    "openvino fp16": ("openvino", {"fp16": True}),
    "mnn": ("mnn", {}),
}
# MNN computes it wrongly, which the proof must tell.
WRONG = {("magika", "mnn")}


def proven(name, way, place):
    """The proof of one model in one format."""
    model, sizes = settled(name)
    output_format, options = WAYS[way]
    made = IRTranslator().optimize(model)
    path = place / f"net{writing.writer(output_format).extension}"
    files = writing.write(made, path, output_format, **options)
    assert all(file.stat().st_size for file in files)
    return writing.prove(model, output_format, path, sizes=[sizes], seeds=(0,), options=options)


def hold(name, way, place):
    assert proven(name, way, place).ok == ((name, way) not in WRONG)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("ppocr_cls", "tensorrt-8"),
        ("ppocr_cls", "openvino"),
        ("ppocr_cls", "mnn"),
        ("silero_vad", "openvino"),
        ("silero_vad", "opset 21"),
        ("magika", "mnn"),
        ("magika", "functions and weights beside"),
        ("nudenet", "tensorrt-8"),
    ],
)
def test_models_compute_the_same_elsewhere(name, way, tmp_path):
    hold(name, way, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_all_models_in_all_formats(name, way, tmp_path):
    hold(name, way, tmp_path)


def test_half_precision_halves_the_file(tmp_path):
    model, _ = settled("ppocr_cls")
    sizes = {}
    for fp16 in (False, True):
        _, weights = writing.write(model, tmp_path / f"{fp16}", "openvino", fp16=fp16)
        sizes[fp16] = weights.stat().st_size
    assert sizes[True] < 0.6 * sizes[False]


def test_a_model_is_compared_layer_by_layer_with_itself_elsewhere(tmp_path):
    model, _ = settled("ppocr_cls")
    path = tmp_path / "old.onnx"
    writing.write(IRTranslator().optimize(model), path, "onnx", consumer="tensorrt-8")
    found = compare_models(model, IRTranslator().parse(path), shapes={"x": (1, 3, 48, 192)})
    assert found.ok, found.divergence
    agreeing = [layer for layer in found.layers if layer.ok]
    assert len(agreeing) > 0.3 * len(found.layers)


class Calibration:
    """A few generated pictures, as ONNX Runtime's quantiser asks for them."""

    def __init__(self, name, shape):
        rng = np.random.default_rng(0)
        self._left = [{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(2)]

    def get_next(self):
        return self._left.pop() if self._left else None

    def set_range(self, *_):
        """Not used here."""


@cache
def quantised(folder, symmetric):
    """ppocr_cls quantised by ONNX Runtime, as a file."""
    from onnxruntime import quantization as q

    class Reader(Calibration, q.CalibrationDataReader):
        pass

    model, sizes = settled("ppocr_cls")
    folder.mkdir(exist_ok=True)
    plain, path = folder / "plain.onnx", folder / f"quantised_{symmetric}.onnx"
    write_onnx(model, plain)
    shape = model.signature.concrete(sizes)["x"]
    q.quantize_static(
        plain, path, Reader("x", shape), quant_format=q.QuantFormat.QDQ, per_channel=True,
        activation_type=q.QuantType.QInt8 if symmetric else q.QuantType.QUInt8, weight_type=q.QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul"],
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("quantised")


def test_what_onnx_runtime_quantised_is_written_for_tensorrt(kept, tmp_path):
    model, sizes = settle(IRTranslator().parse(quantised(kept, True)), shapes={"x": (1, 3, 48, 192)})
    options = {"consumer": "tensorrt-10", "sizes": {**sizes, model.signature.dynamic_axes[0]: 1}}
    path = tmp_path / "trt.onnx"
    writing.write(model, path, "qdq_onnx", **options)
    proof = writing.prove(model, "qdq_onnx", path, options=options)
    assert proof.ok, proof.outputs
    proto = onnx.load(path)
    zeros = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    pairs = [node for node in proto.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert len(pairs) > 50
    for node in pairs:
        zero = zeros[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any()
    dims = [
        d for value in (*proto.graph.input, *proto.graph.output) for d in value.type.tensor_type.shape.dim
    ]
    assert all(d.dim_value > 0 for d in dims)
    assert {node.domain for node in proto.graph.node} == {""}


def test_asymmetric_quantisation_is_refused_with_all_its_nodes(kept, tmp_path):
    model = IRTranslator().parse(quantised(kept, False))
    with pytest.raises(UnsupportedOperatorError) as told:
        writing.write(model, tmp_path / "trt.onnx", "qdq_onnx")
    assert sum(map(len, told.value.uses.values())) > 20
    assert not list(tmp_path.iterdir())
