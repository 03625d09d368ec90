"""Networks that coremltools made of PyTorch's, against PyTorch's answers (tests/fixtures/coreml/make_cases.py)."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from raceline import engines
from raceline.convert.readers import coreml as reader
from raceline.ir import run_reference

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "coreml" / "cases.zip"
with zipfile.ZipFile(ARCHIVE) as _archive:
    SQUEEZED = json.loads(_archive.read("squeezed.json"))
    CASES = sorted({n.partition(".")[0] for n in _archive.namelist() if n.endswith(".npz")})
CASES = [name for name in CASES if not name.startswith(tuple(SQUEEZED))]
BY_ONNXRUNTIME = ("resize", "samples")  # onnx's reference is not exact there
IN_16_BITS = 5e-3


def unpacked(name, place):
    """The package as a folder, and the arrays that belong to it."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        members = [n for n in archive.namelist() if n.startswith(f"{name}.mlpackage/")]
        archive.extractall(place, members)
        arrays = dict(np.load(io.BytesIO(archive.read(f"{name}.npz"))))
    return place / f"{name}.mlpackage", arrays


@pytest.mark.parametrize("name", CASES)
def test_a_network_answers_as_pytorch_does(tmp_path, name):
    path, arrays = unpacked(name, tmp_path)
    model = reader.read(path)
    feeds = {spec.name: arrays[spec.name].astype(spec.dtype) for spec in model.signature.inputs}
    if name.startswith(BY_ONNXRUNTIME):
        found = engines.load("onnxruntime").load(model, engines.Options()).run(feeds)
    else:
        found = run_reference(model, feeds)
    assert set(found) == {key for key in arrays if key.startswith("y")}
    tolerance = IN_16_BITS if name.endswith("_16") else 1e-5
    for key, got in found.items():
        want = arrays[key]
        assert got.shape == want.shape
        assert np.abs(got.astype(np.float64) - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("name", SQUEEZED)
def test_weights_in_few_bits_are_those_that_coremltools_decompresses(tmp_path, name):
    path, arrays = unpacked(name, tmp_path)
    plain, _ = unpacked(f"{name}_plain", tmp_path)
    small, large = (run_reference(reader.read(p), {"x0": arrays["x0"]})["y0"] for p in (path, plain))
    np.testing.assert_allclose(small, large, rtol=1e-6, atol=1e-6 * np.abs(large).max())


def test_whole_weights_stay_whole(tmp_path):
    path, _ = unpacked("blocks_4", tmp_path)
    kinds = {v.dtype.name for v in reader.read(path).program.graph.initializers.values()}
    assert "INT4" in kinds
