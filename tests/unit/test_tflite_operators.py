"""Every operator against what LiteRT, TensorFlow Lite's own interpreter, computes (tests/fixtures/tflite)."""

from pathlib import Path

import numpy as np
import pytest
from tflite_cases import CASES

from raceline.convert.readers import tflite
from raceline.ir import run_reference

EXPECTED = np.load(Path(__file__).parents[1] / "fixtures" / "tflite" / "expected.npz")


def read(case, folder):
    path = folder / "case.tflite"
    path.write_bytes(case.model())
    return tflite.read(path)


def agree(case, place, found, expected):
    """Floats within 1e-5 of the largest; quantised integers within the case's number of steps."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    kind = case.outputs[place]
    if isinstance(kind, tuple):
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= case.steps
    elif expected.dtype.kind == "f":
        scale = max(np.abs(expected).max(initial=0), 1e-3)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_computes_what_litert_computes(case, tmp_path):
    model = read(case, tmp_path)
    outputs = run_reference(model, case.feeds())
    assert list(outputs) == [f"y{place}" for place in range(len(case.outputs))]
    for place, found in enumerate(outputs.values()):
        agree(case, place, found, EXPECTED[f"{case.name}/{place}"])
