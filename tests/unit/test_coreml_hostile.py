"""Packages that are broken or hostile, and kinds of models that are none of ours."""

import json

import numpy as np
import pytest

from raceline.convert.formats.coreml.package import model_class
from raceline.convert.readers import coreml as reader
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.ir import Limits

MESSAGE = "Data/com.apple.CoreML/model.mlmodel"


@pytest.fixture
def package(tmp_path):
    return reader.example(tmp_path)


def changed(package, change):
    """The package with its message changed by a function."""
    message = model_class().FromString((package / MESSAGE).read_bytes())
    change(message, message.mlProgram.functions["main"].block_specializations["CoreML6"])
    (package / MESSAGE).write_bytes(message.SerializeToString())


def refused(package, match, **limits):
    with pytest.raises(BadModelError, match=match) as caught:
        reader.read(package, limits=Limits(**limits))
    assert "example" in str(caught.value)


@pytest.mark.parametrize(
    "path",
    ["../../secret.mlmodel", "/etc/passwd", "com.apple.CoreML/absent", "com.apple.CoreML", "a\0b", "link"],
)
def test_a_manifest_that_leads_elsewhere_is_refused(tmp_path, package, path):
    (tmp_path / "secret.mlmodel").write_bytes((package / MESSAGE).read_bytes())
    (package / "Data" / "link").symlink_to(tmp_path / "secret.mlmodel")
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"]["1"]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(manifest))
    assert not reader.recognises(package)
    with pytest.raises(BadModelError):
        reader.read(package, limits=Limits())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"itemInfoEntries": 5}', "[" * 100_000])
def test_a_broken_manifest_is_told(package, text):
    (package / "Manifest.json").write_text(text)
    assert not reader.recognises(package)
    with pytest.raises(BadModelError):
        reader.read(package, limits=Limits())


def test_a_single_file_is_read_too(package, tmp_path):
    path = tmp_path / "single.mlmodel"
    path.write_bytes((package / MESSAGE).read_bytes())
    assert reader.recognises(path)
    x = np.ones((2, 3), np.float32)
    assert [s.name for s in reader.read(path).signature.inputs] == ["x"]
    assert reader.answer({"x": x})["y"].shape == (2, 2)


@pytest.mark.parametrize("number, told", [(500, "neural network"), (402, "tree ensemble"), (202, "pipeline")])
def test_other_kinds_of_models_are_named(tmp_path, number, told):
    path = tmp_path / "example.mlmodel"
    tag = number << 3 | 2
    path.write_bytes(bytes([8, 7, 0x12, 0, tag & 127 | 128, tag >> 7, 0]))
    assert reader.recognises(path)
    refused(path, f"{told}.*mlprogram")


def blob(name, offset):
    def change(_, block):
        value = block.operations[0].attributes["val"]
        value.ClearField("immediateValue")
        value.blobFileValue.fileName, value.blobFileValue.offset = name, offset

    return change


@pytest.mark.parametrize(
    "name, offset, told",
    [
        ("@model_path/weights/weight.bin", 64, "no file"),
        ("@model_path/../../../secret", 0, "leads outside"),
        ("/etc/passwd", 0, "no weights"),
        ("@model_path/model.mlmodel", 1 << 60, "outside"),
        ("@model_path/model.mlmodel", 0, "no weight at 0"),
    ],
)
def test_weights_outside_of_their_file_are_refused(package, name, offset, told):
    changed(package, blob(name, offset))
    refused(package, told)


def test_all_that_is_not_supported_is_told_at_once(package):
    def change(_, block):
        block.operations[1].type = "strange"
        other = block.operations.add(type="softmax")
        other.inputs["x"].arguments.add(name="x")
        other.inputs["secret"].arguments.add(name="w")
        other.outputs.add(name="z")

    changed(package, change)
    with pytest.raises(UnsupportedOperatorError) as caught:
        reader.read(package)
    assert set(caught.value.uses) == {"strange", "softmax: argument secret"}


CHANGES = [
    (lambda m, b: b.operations[0].attributes["val"].immediateValue.tensor.floats.values.pop(), "holds 5 elements"),
    (lambda m, b: b.operations[2].outputs[0].__setattr__("name", "h"), "written twice"),
    (lambda m, b: b.outputs.append("nowhere"), "nothing writes"),
    (lambda m, b: b.operations[1].inputs["x"].arguments.pop(), "makes no sense|reads|IndexError|KeyError"),
    (lambda m, b: b.operations[1].inputs["x"].arguments[0].__setattr__("name", "gone"), "which nothing writes"),
    (lambda m, b: m.mlProgram.functions["main"].__setattr__("opset", "CoreML99"), "no block"),
    (lambda m, b: m.description.__setattr__("defaultFunctionName", "other"), "no function"),
    (lambda m, b: b.operations[1].outputs[0].type.tensorType.dimensions[1].constant.__setattr__("size", 9),
     "contradicts"),
    (lambda m, b: b.operations[1].outputs[0].type.tensorType.__setattr__("dataType", 10), "contradicts"),
    (lambda m, b: m.mlProgram.functions["main"].inputs[0].type.tensorType.__setattr__("dataType", 99),
     "unknown element type"),
]  # fmt: skip


@pytest.mark.parametrize("change, told", CHANGES)
def test_what_makes_no_sense_is_told(package, change, told):
    changed(package, change)
    refused(package, told)


def test_pictures_are_told_as_the_tensors_they_become(package):
    def change(message, _):
        image = message.description.input[0].type.imageType
        image.width, image.height, image.colorSpace = 3, 1, 20

    changed(package, change)
    assert any("picture (RGB, 3 x 1)" in step for step in reader.read(package).provenance.steps)


def tried(package, data):
    (package / MESSAGE).write_bytes(data)
    try:
        reader.read(package, limits=Limits(max_model_bytes=50_000_000, max_nodes=1000))
    except RacelineError:
        return


def test_messages_cut_anywhere(package):
    data = (package / MESSAGE).read_bytes()
    for stop in range(1, len(data)):
        tried(package, data[:stop])


@pytest.mark.parametrize(
    "seed, rounds", [*((s, 100) for s in range(3)), pytest.param(9, 5000, marks=pytest.mark.slow)]
)
def test_random_damage(package, seed, rounds):
    data = (package / MESSAGE).read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        other = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            other[rng.integers(0, len(other))] = rng.integers(0, 256)
        tried(package, bytes(other))
