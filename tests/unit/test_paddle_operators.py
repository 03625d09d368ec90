"""Each operator against what PaddlePaddle 2.6.2 and 3.3.1 computed (tests/fixtures/paddle)."""

import io
import lzma
from pathlib import Path

import numpy as np
import pytest

from raceline.convert.readers import paddle
from raceline.ir import run_reference

FOLDER = Path(__file__).parent.parent / "fixtures/paddle"


def cases(name):
    found = {}
    for key, array in np.load(io.BytesIO(lzma.decompress((FOLDER / name).read_bytes()))).items():
        found.setdefault(key.rpartition("/")[0], {})[key.rpartition("/")[2]] = array
    return found


OLD = cases("operators.npz.xz")
NEW = {  # what both versions compute alike is in the file of the older one alone
    f"{name}_json": {k: a for k, a in OLD[name].items() if not k.startswith("pd")} | entries
    for name, entries in cases("operators_json.npz.xz").items()
    if "json" in entries
}
CASES: dict[str, dict] = OLD | NEW


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_it_computes_what_paddle_computes(case, tmp_path):
    path = tmp_path / f"case.{'json' if 'json' in case else 'pdmodel'}"
    for suffix in ("json", "pdmodel", "pdiparams"):
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
