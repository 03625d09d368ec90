"""Whole SavedModels against what TensorFlow 2.21 computes (tests/fixtures/tensorflow/make_models.py)."""

from pathlib import Path

import numpy as np
import pytest
from fixtures.tensorflow.container import unpack

from raceline.convert.readers import graph_def, saved_model
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import run_reference

ITEMS = unpack(Path(__file__).parents[1] / "fixtures/tensorflow/models.xz")
NAMES = sorted({name.split("|")[0] for name in ITEMS})
COMPUTED = [name for name in NAMES if f"{name}|in0|" in "".join(ITEMS)]


def parts(name, side):
    start = f"{name}|{side}|"
    return {key.removeprefix(start): item for key, item in ITEMS.items() if key.startswith(start)}


def unpacked(name, place):
    folder = place / name
    for file, content in parts(name, "file").items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


def check(model, name):
    number = 0
    while feeds := parts(name, f"in{number}"):
        found = run_reference(model, feeds)
        for key, wanted in parts(name, f"out{number}").items():
            assert found[key].shape == wanted.shape, key
            np.testing.assert_allclose(found[key], wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))
        number += 1
    assert number


@pytest.mark.parametrize("name", COMPUTED)
def test_saved_model_computes_what_tensorflow_does(name, tmp_path):
    folder = unpacked(name, tmp_path)
    assert saved_model.recognises(folder)
    model = saved_model.read(folder)
    check(model, name)
    assert model.provenance.producer.startswith("TensorFlow 2.")


@pytest.mark.parametrize("name", ["tf1_references", "tf1_resources"])
def test_frozen_graph_computes_what_tensorflow_does(name, tmp_path):
    path = tmp_path / "frozen.pb"
    path.write_bytes(ITEMS[f"{name}|frozen"])
    assert graph_def.recognises(path)
    check(graph_def.read(path), name)
    found = graph_def.read(path, inputs={"x:0": [2, 6]}, outputs=["y:0"])
    assert found.signature.inputs[0].shape == (2, 6)


def test_the_batch_stays_open(tmp_path):
    for name in ("with_optimizer", "lstm", "unet", "tf1_references"):
        model = saved_model.read(unpacked(name, tmp_path))
        assert {spec.shape[0] for spec in model.signature.inputs} == {"batch"}


def test_recurrent_layers_become_loops_with_scan_outputs(tmp_path):
    program = saved_model.read(unpacked("gru_sequence", tmp_path)).program
    loops = [node for node in program.graph if node.op_type == "Loop"]
    assert len(loops) == 1
    inside = {node.op_type for node in loops[0].attributes["body"].as_graph()}
    assert "ScatterND" not in inside, "the list would be copied each turn"


def test_a_model_that_changes_its_variables_is_refused(tmp_path):
    with pytest.raises(UnsupportedOperatorError, match="AssignAddVariableOp: it changes a variable"):
        saved_model.read(unpacked("counter", tmp_path))


def test_signatures_and_tags_are_chosen_by_name(tmp_path):
    folder = unpacked("lstm", tmp_path)
    assert saved_model.read(folder / "saved_model.pb", signature="serve").signature.outputs
    with pytest.raises(BadModelError, match="no signature 'other'.*serving_default"):
        saved_model.read(folder, signature="other")
    with pytest.raises(BadModelError, match="no graph tagged gpu.*serve"):
        saved_model.read(folder, tags=["gpu"])


def test_weights_that_are_absent_or_damaged_are_told(tmp_path):
    folder = unpacked("with_optimizer", tmp_path)
    data = folder / "variables/variables.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[:-1] if len(content) < 100 else content[:50])
    with pytest.raises(BadModelError, match="cut off|checksum"):
        saved_model.read(folder)
    flipped = bytearray(content)
    for place in range(len(flipped)):
        flipped[place] ^= 1
    data.write_bytes(flipped)
    with pytest.raises(BadModelError, match="checksum|no whole"):
        saved_model.read(folder)
    data.unlink()
    with pytest.raises(BadModelError, match="has no file"):
        saved_model.read(folder)
