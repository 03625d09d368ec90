"""Pretrained networks as OpenVINO IR: what the reader makes of them against OpenVINO's own run."""

import numpy as np
import openvino as ov
import pytest
from benchmarks import _models
from openvino_oracle import answers

from raceline import engines
from raceline.convert.readers import openvino as reader

CASES = {case.name: case for case in _models.real_models()}
# 1e-4 of the largest magnitude; ppocr_det ends in a sigmoid behind 60 layers, where both engines round otherwise.
TOLERANCE = {"ppocr_det": 5e-4}


COMPRESSED = {"magika", "ppocr_cls", "ppocr_rec", "silero_vad_static"}


@pytest.mark.parametrize(
    "name", [carried.name for carried in _models.CARRIED if carried.name != "silero_vad"]
)
def test_a_pretrained_network(tmp_path, name):
    if name not in CASES:
        pytest.skip(f"{name}: {_models.INSTALL}")
    case = CASES[name]
    path = tmp_path / "model.xml"
    ov.save_model(ov.convert_model(case.path), path, compress_to_fp16=name in COMPRESSED)
    model = reader.read(path)
    assert {spec.name for spec in model.signature.inputs} == {spec.name for spec in case.inputs}
    session = engines.load("onnxruntime").load(model, engines.Options(threads=2))
    small = name in {"ppocr_cls", "magika"}
    for batch, seed in ((1, 0), (3, 1)) if small else ((1, 0),):
        feeds = case.tensors(batch, seed)
        ordered = [feeds[spec.name] for spec in model.signature.inputs]
        for found, expected in zip(session.run(feeds).values(), answers(path, ordered), strict=True):
            gap = np.abs(found.astype(np.float64) - expected).max()
            assert gap <= TOLERANCE.get(name, 1e-4) * np.abs(expected).max()
