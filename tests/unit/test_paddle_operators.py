"""Each operator against what PaddlePaddle 2.6.2 computed (tests/fixtures/paddle)."""

import io
import lzma
from pathlib import Path

import numpy as np
import pytest

from raceline.convert.readers import paddle
from raceline.ir import run_reference

FIXTURE = Path(__file__).parent.parent / "fixtures/paddle/operators.npz.xz"
CASES: dict[str, dict] = {}
for key, array in np.load(io.BytesIO(lzma.decompress(FIXTURE.read_bytes()))).items():
    CASES.setdefault(key.rpartition("/")[0], {})[key.rpartition("/")[2]] = array


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_it_computes_what_paddle_computes(case, tmp_path):
    path = tmp_path / "case.pdmodel"
    for suffix in ("pdmodel", "pdiparams"):
        if suffix in case:
            path.with_suffix(f".{suffix}").write_bytes(case[suffix].tobytes())
    model = paddle.read(path)
    feeds = {spec.name: case[spec.name] for spec in model.signature.inputs}
    results = list(run_reference(model, feeds).values())
    assert len(results) == sum(key.startswith("y") for key in case)
    for place, found in enumerate(results):
        expected = case[f"y{place}"]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1e-3)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * scale)
