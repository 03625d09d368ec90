"""A pretrained network that its package carries as Core ML and as ONNX: both must answer the same."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from raceline import engines
from raceline.convert.readers import coreml, onnx

# The twins were exported apart: a logarithm near zero lies between them and the input.
TOLERANCE = 5e-4
OUTPUTS = {"Identity": 0, "Identity_1": 1, "Identity_2": 2}


def folder():
    spec = importlib.util.find_spec("basic_pitch")
    for place in spec.submodule_search_locations or () if spec else ():
        if (Path(place) / "saved_models/icassp_2022/nmp.mlpackage").is_dir():
            return Path(place) / "saved_models/icassp_2022"
    pytest.skip("basic-pitch: pip install --no-deps -r benchmarks/real-models.txt")


def test_basic_pitch_and_its_twin():
    place = folder()
    model, twin = coreml.read(place / "nmp.mlpackage"), onnx.read(place / "nmp.onnx")
    assert [spec.shape for spec in model.signature.inputs] == [(1, 43844, 1)]
    options = engines.Options(threads=2)
    session, other = (engines.load("onnxruntime").load(m, options) for m in (model, twin))
    for seed in range(2):
        x = np.random.default_rng(seed).uniform(-1, 1, (1, 43844, 1)).astype(np.float32)
        found = session.run({model.signature.inputs[0].name: x})
        expected = other.run({twin.signature.inputs[0].name: x})
        for name, number in OUTPUTS.items():
            want = expected[f"StatefulPartitionedCall:{number}"]
            assert np.abs(found[name] - want).max() <= TOLERANCE * np.abs(want).max()
