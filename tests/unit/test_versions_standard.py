"""ONNX's own node tests at other opsets: what changes its opset keeps its numbers, and nothing breaks."""

import warnings

import numpy as np
import onnxruntime
import pytest
from onnx.backend.test.loader import load_model_tests

from raceline.convert.onnx_file import read_onnx
from raceline.convert.versions import with_opset
from raceline.core.errors import RacelineError
from raceline.ir import to_proto

OPSETS = (11, 13, 17, 21, 24)


@pytest.fixture(scope="module")
def cases():
    """The cases that are models with data; making them overflows here and there, which is meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return [case for case in found if case.model is not None and case.data_sets]


def run(proto, feeds):
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def same(one, other):
    if not isinstance(one, np.ndarray):
        return one == other
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    # Half precision rounds where an operator's own body rounds in other places.
    tolerance = 1e-2 if one.dtype == np.float16 else 1e-4
    near = one.dtype.kind in "fc" and np.allclose(
        one, other, rtol=tolerance, atol=0.1 * tolerance, equal_nan=True
    )
    return near or np.array_equal(one, other)


def wrong(case, place):
    """Opsets at which the case computes something else."""
    try:
        feeds = {
            value.name: np.asarray(array)
            for value, array in zip(case.model.graph.input, case.data_sets[0][0], strict=False)
        }
        place.write_bytes(case.model.SerializeToString())
        model = read_onnx(place)
        expected = run(to_proto(model), feeds)
    except Exception:  # noqa: BLE001
        return []  # not a model of tensors, or ONNX Runtime lacks the operator: nothing to compare with
    found = []
    for opset in OPSETS:
        try:
            changed = with_opset(model, opset)
        except RacelineError:
            continue
        got = run(to_proto(changed), feeds)
        if not all(same(a, b) for a, b in zip(expected, got, strict=True)):
            found.append(opset)
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_sample_keeps_its_numbers(tmp_path, cases):
    assert len(cases) > 1000
    assert {case.name: opsets for case in cases[::60] if (opsets := wrong(case, tmp_path / "m.onnx"))} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_all_keep_their_numbers(tmp_path, cases):
    assert {case.name: opsets for case in cases if (opsets := wrong(case, tmp_path / "m.onnx"))} == {}
