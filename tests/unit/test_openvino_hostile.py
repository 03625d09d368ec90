"""Files that are broken or hostile: only errors that say so may come out."""

import numpy as np
import pytest

from raceline.convert.readers import openvino as reader
from raceline.core.errors import BadModelError, RacelineError
from raceline.ir import Limits


@pytest.fixture
def files(tmp_path):
    path = reader.example(tmp_path)
    return path, path.read_bytes(), path.with_suffix(".bin").read_bytes()


def refused(path, match, **limits):
    with pytest.raises(BadModelError, match=match) as caught:
        reader.read(path, limits=Limits(**limits))
    assert path.stem in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE net [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE net [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE net SYSTEM "http://127.0.0.1:9/x.dtd">',
        "<!DOCTYPE net>",
    ],
)
def test_document_types_and_entities_are_refused(tmp_path, head):
    path = tmp_path / "m.xml"
    path.write_text(f'<?xml version="1.0"?>{head}<net name="x" version="11"><layers/></net>')
    refused(path, "document type")


def test_depth_and_size_are_bounded(tmp_path):
    path = tmp_path / "m.xml"
    path.write_text('<net name="x" version="11">' + "<layers>" * 5000 + "</layers>" * 5000 + "</net>")
    refused(path, "deep")
    path.write_text('<net name="x" version="11"><layers>' + "<a/>" * 5000 + "</layers></net>")
    refused(path, "limit", max_nodes=20)


CHANGES = [
    ('version="11"', 'version="7"', "version"),
    ('size="24"', 'size="99999999999999"', "outside"),
    ('offset="0"', 'offset="8"', "outside"),
    ('offset="0"', 'offset="-8"', "outside"),
    ('size="24"', 'size="16"', "hold"),
    ('shape="3,2"', 'shape="3,99999999999"', "hold"),
    ('shape="3,2"', 'shape="3,-2"', "open|shape|size"),
    ('shape="?,3"', 'shape="..."', "axes"),
    ('shape="?,3"', 'shape="a,b"', "shape"),
    ('element_type="f32"', 'element_type="q7"', "element type"),
    ('type="ReLU"', 'type="Strange"', "Strange"),
    ('type="Result"', 'type="ReLU"', "results|outputs"),
    ('layer id="3"', 'layer id="2"', "two layers|nothing feeds"),
    ('from-layer="2"', 'from-layer="4"', "nothing feeds"),
    ('from-layer="2"', 'from-layer="3"', "nothing feeds|circle"),
    ('to-port="1"', 'to-port="0"', "two edges"),
    ('transpose_a="false"', 'transpose_a="maybe"', "neither true nor false"),
    ('transpose_a="false"', 'transpose_a="false" secret="1"', "attribute secret"),
    ('names="y"><dim>-1</dim><dim>2</dim>', 'names="y"><dim>-1</dim><dim>5</dim>', "contradicts"),
    ("<dim>3</dim>", "<dim>x</dim>", "invalid literal|size"),
]


@pytest.mark.parametrize("old, new, told", CHANGES)
def test_what_makes_no_sense_is_told(files, old, new, told):
    path, text, _ = files
    changed = text.decode().replace(old, new, 1)
    assert changed != text.decode()
    path.write_text(changed)
    refused(path, told)


def test_a_circle_is_told(files):
    path, text, _ = files
    path.write_text(text.decode().replace('from-layer="0" from-port="0"', 'from-layer="3" from-port="1"'))
    refused(path, "circle")


def test_weights_that_are_absent_or_no_numbers_are_told(files):
    path, _, weights = files
    beside = path.with_suffix(".bin")
    beside.write_bytes(np.full(6, np.nan, np.float32).tobytes())
    with pytest.raises(BadModelError, match="NaN"):
        reader.read(path, limits=Limits())
    beside.write_bytes(b"")
    refused(path, "outside")
    beside.unlink()
    refused(path, "not there")
    beside.mkdir()
    with pytest.raises(BadModelError, match="folder"):
        reader.read(path, limits=Limits())
    refused(path, "limit", max_model_bytes=100)
    assert weights


def test_inputs_of_one_name_get_names_of_their_own(files):
    path, text, _ = files
    path.write_text(text.decode().replace('names="y"', 'names="x"'))
    model = reader.read(path, limits=Limits())
    assert model.signature.inputs[0].name != model.signature.outputs[0].name


def tried(path, data):
    path.write_bytes(data)
    try:
        reader.read(path, limits=Limits(max_model_bytes=50_000_000, max_nodes=1000))
    except RacelineError:
        return


def test_files_cut_anywhere(files):
    path, text, weights = files
    for stop in range(1, len(text), 7):
        tried(path, text[:stop])
    path.write_bytes(text)
    for stop in range(len(weights)):
        tried(path.with_suffix(".bin"), weights[:stop])
        with pytest.raises(RacelineError):
            reader.read(path, limits=Limits())


def flipped(text, rng):
    data = bytearray(text)
    for _ in range(rng.integers(1, 4)):
        place = rng.integers(0, len(data))
        kind = rng.integers(0, 3)
        if kind == 0:
            data[place] = rng.integers(0, 256)
        elif kind == 1:
            data[place] = rng.choice(list(b'0123456789-,.?<>"/ '))
        else:
            del data[place : place + int(rng.integers(1, 30))]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage(files, seed):
    path, text, _ = files
    rng = np.random.default_rng(seed)
    for _ in range(80):
        tried(path, flipped(text, rng))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_much_random_damage(files, seed):
    path, text, _ = files
    rng = np.random.default_rng(seed)
    for _ in range(400):
        tried(path, flipped(text, rng))
