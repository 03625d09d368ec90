"""A pretrained SavedModel against its twin in ONNX and against OpenVINO's own reader."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from raceline import engines
from raceline.convert import IRTranslator

TWINS = {
    "contour": "StatefulPartitionedCall:0",
    "note": "StatefulPartitionedCall:1",
    "onset": "StatefulPartitionedCall:2",
}


@pytest.fixture(scope="module")
def folder():
    spec = importlib.util.find_spec("basic_pitch")
    if spec is None or spec.origin is None:
        pytest.skip("needs basic-pitch: pip install --no-deps -r benchmarks/real-models.txt")
    return Path(spec.origin).parent / "saved_models/icassp_2022"


def tones(seed, batch):
    """Notes, as the model is made for."""
    rng = np.random.default_rng(seed)
    time = np.arange(43844) / 22050
    pitches = rng.uniform(100, 2000, (batch, 5, 1))
    waves = np.sin(2 * np.pi * pitches * time) * rng.uniform(0.1, 0.3, (batch, 5, 1))
    noise = rng.normal(0, 0.01, (batch, 43844))
    return (waves.sum(1) + noise).astype(np.float32)[..., None]


def run(model, inputs):
    session = engines.load("onnxruntime").load(model, engines.Options(optimise=False))
    try:
        return session.run(inputs)
    finally:
        session.close()


def test_basic_pitch_matches_its_twin_and_openvino(folder):
    import openvino

    translator = IRTranslator()
    model = translator.parse(folder / "nmp")
    assert model.provenance.source_format == "saved_model"
    assert [spec.shape for spec in model.signature.inputs] == [("batch", 43844, 1)]
    twin = translator.parse(folder / "nmp.onnx")
    oracle = openvino.compile_model(folder / "nmp", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (name,) = (spec.name for spec in model.signature.inputs)
    (twin_name,) = (spec.name for spec in twin.signature.inputs)
    optimised = translator.optimize(model)
    for seed, batch in ((0, 1), (1, 2)):
        x = tones(seed, batch)
        found, later = run(model, {name: x}), run(optimised, {name: x})
        wanted = run(twin, {twin_name: x})
        others = {output.get_any_name(): array for output, array in oracle({0: x}).items()}
        for key, array in found.items():
            largest = np.abs(array).max()
            assert np.abs(array - wanted[TWINS[key]]).max() <= 1e-5 * largest, key
            # The model subtracts the least logarithm of any bin: sums in another order move that by a thousandth.
            assert np.abs(array - others[key]).max() <= 5e-3 * largest, key
            assert np.abs(array - later[key]).max() <= 5e-3 * largest, key
