"""Every layer against Keras itself, and models of Keras 2 against what TensorFlow said of them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras_cases
import numpy as np
import pytest

from raceline.convert.readers import keras as reader
from raceline.ir import run_reference

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras"
# Torch computes these otherwise than TensorFlow does, whose meaning Keras's documents have, or not at all.
NOT_ON_TORCH = {"layer_norm", "layer_norm_axes", "ops_items"} | {
    name for name in keras_cases.CASES if "bicubic" in name
}
# One or two of each kind; `make test-slow` runs all.
QUICK = """
    dense einsum_dense_heads activation_hard_sigmoid activation_gelu relu_all prelu conv1d conv2d conv2d_dilated
    separable conv2d_transpose_32same conv2d_transpose_extra average_same adaptive batch_norm group_norm rms_norm
    reshape padding upsampling_bilinear resizing_nearest rescaling normalization_given discretization channels_first
    merges dots LSTM_states GRU_backwards GRU_odd LSTM_masked_True SimpleRNN_masked_odd_True bidirectional_GRU_ave
    bidirectional_LSTM_masked rnn_cells conv_lstm masking_layer time_distributed concatenated_masks attention mha
    mha_masked_0.1 gqa ops_arithmetic ops_shapes ops_joins nested shared partly_frozen dictionary transformer
""".split()
SLOW = sorted(set(keras_cases.CASES) - set(QUICK) - NOT_ON_TORCH)
KERAS_2 = sorted(path.name for path in FIXTURES.iterdir() if path.suffix in {".h5", ".keras"})


def written(folder, names):
    """Models saved by Keras in a process of its own, with what it computes of them."""
    if not all(importlib.util.find_spec(name) for name in ("keras", "torch")):
        pytest.skip("keras or torch is not installed")
    command = [sys.executable, "-m", "keras_cases", str(folder), *names]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    subprocess.run(command, env=environment, cwd=FIXTURES.parents[1], capture_output=True, check=True)
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return written(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return written(tmp_path_factory.mktemp("slow"), [*QUICK, *SLOW])


def agree(path, arrays):
    """Hold a model to what its framework computed: 1e-4 of each output's largest magnitude, for two batches."""
    model = reader.read(path)
    names = [spec.name for spec in model.signature.inputs]
    for batch in (1, 3):
        given = {key.split(":", 2)[2]: arrays[key] for key in arrays.files if key.startswith(f"in:{batch}:")}
        feeds = given if set(given) == set(names) else dict(zip(names, given.values(), strict=True))
        found = list(run_reference(model, feeds).values())
        expected = [
            arrays[f"out:{batch}:{i}"] for i in range(sum(f"out:{batch}:" in key for key in arrays.files))
        ]
        assert len(found) == len(expected)
        for got, want in zip(found, expected, strict=True):
            assert got.shape == want.shape
            assert got.dtype.kind == want.dtype.kind
            scale = max(float(np.abs(want.astype(np.float64)).max()), 1e-6)
            np.testing.assert_allclose(got / scale, want / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_it_computes_what_keras_does(quick, name):
    suffix = ".h5" if QUICK.index(name) % 3 == 0 else ".keras"
    agree(quick / f"{name}{suffix}", np.load(quick / f"{name}.npz"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_it_computes_what_keras_does_with_every_layer(slow, name, suffix):
    agree(slow / f"{name}{suffix}", np.load(slow / f"{name}.npz"))


@pytest.mark.parametrize("file", KERAS_2)
def test_it_computes_what_tensorflow_did_with_keras_2(file):
    path = FIXTURES / file
    agree(path, np.load(path.with_suffix(".npz")))
