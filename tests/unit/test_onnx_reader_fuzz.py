"""Damaged model files: whatever the bytes, a model or a deliberate error comes out."""

import ir_models as m
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raceline.core.errors import RacelineError
from raceline.ir import Limits

SEEDS = [m.perceptron().SerializeToString(), m.fused().SerializeToString()]
QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def survives(data, folder):
    """Read anything at all: a model or a deliberate error, and nothing else."""
    try:
        model = m.read(data, folder, limits=Limits(max_model_bytes=50_000_000))
    except RacelineError:
        return
    assert model.signature.outputs


def flipped(data, flips):
    mutable = bytearray(data)
    for at, value in flips:
        mutable[at % len(mutable)] ^= value
    return bytes(mutable)


flips = st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 255)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(seed=st.sampled_from(SEEDS), flips=flips)
def test_flipped_bytes_never_escape(tmp_path_factory, seed, flips):
    survives(flipped(seed, flips), tmp_path_factory.getbasetemp())


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(data=st.binary(max_size=200))
def test_random_bytes_never_escape(tmp_path_factory, data):
    survives(b"\x08\x08" + data, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["magika", "silero", "basic-pitch", "ocr-cls"])
def test_damaged_real_models_never_escape(tmp_path, name):
    data = m.real_path(name).read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        places = generator.integers(0, len(data), 3).tolist()
        survives(flipped(data, [(at, int(generator.integers(1, 256))) for at in places]), tmp_path)
        survives(data[: int(generator.integers(0, len(data)))], tmp_path)


@pytest.mark.slow
def test_damaged_graphs_never_escape_at_length(tmp_path):
    generator = np.random.default_rng(1)
    for _ in range(6000):
        data = SEEDS[int(generator.integers(0, 2))]
        places = generator.integers(0, len(data), int(generator.integers(1, 6))).tolist()
        survives(flipped(data, [(at, int(generator.integers(1, 256))) for at in places]), tmp_path)
