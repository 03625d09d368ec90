"""Each operator against what TensorFlow 2.21 computes (tests/fixtures/tensorflow/make_operators.py)."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.tensorflow.container import unpack

from raceline.convert.formats.tensorflow.frozen import read_graph_def
from raceline.ir import Limits, run_reference

ITEMS = unpack(Path(__file__).parents[1] / "fixtures/tensorflow/operators.xz")
CASES = sorted({name.split("|")[0] for name in ITEMS})
TOLERANCES = {"Cumprod": 1e-4}  # sums of logarithms lose a little


def parts(case, side):
    start = f"{case}|{side}|"
    return {name.removeprefix(start): array for name, array in ITEMS.items() if name.startswith(start)}


@pytest.mark.parametrize("case", CASES)
def test_operator(case, tmp_path):
    path = tmp_path / f"{case}.pb"
    path.write_bytes(ITEMS[f"{case}|graph"])
    feeds, expected = parts(case, "in"), parts(case, "out")
    model = read_graph_def(path, Limits(), list(feeds), list(expected))
    found = run_reference(model, feeds)
    tolerance = TOLERANCES.get(case.split("_")[0], 2e-5)
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype, name
        assert found[name].shape == wanted.shape, name
        exact = wanted.dtype.kind in "biu"
        scale = 0 if exact or not wanted.size else np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
        np.testing.assert_allclose(
            found[name], wanted, rtol=0, atol=tolerance * max(scale, 1e-3) if not exact else 0
        )
