"""XGBoost files that are not what they should be: only deliberate errors come out."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from raceline.convert.formats.xgboost import ubjson
from raceline.convert.readers import xgboost as reader
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.ir import Limits, run_reference

FIXTURES = Path(__file__).parent.parent / "fixtures" / "xgboost"
MEMORY = Limits(max_model_bytes=100_000_000)


def changed(tmp_path, change):
    """The example with something changed, as it is read."""
    path = reader.example(tmp_path)
    model = json.loads(path.read_text())
    learner = model["learner"]
    change(learner, learner["gradient_booster"]["model"]["trees"][0])
    path.write_text(json.dumps(model))
    return path


def key(text):
    return b"L" + struct.pack(">q", len(text)) + text


@pytest.mark.parametrize(
    "data, value",
    [
        (b"{" + key(b"a") + b"U\x07" + key(b"b") + b"S" + key(b"hi") + b"}", {"a": 7, "b": "hi"}),
        (b"[TFZ]", [True, False, None]),
        (b"[#U\x02i\xffI\x01\x00", [-1, 256]),
        (b"D" + struct.pack(">d", 0.5), 0.5),
        (b"Cx", "x"),
    ],
)
def test_ubjson(data, value):
    assert ubjson.parse(data) == value


def test_typed_arrays_of_ubjson():
    found = ubjson.parse(b"[$l#L" + struct.pack(">q2i", 2, -5, 70000))
    assert found.dtype == np.int32 and found.tolist() == [-5, 70000]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"[$d#L" + struct.pack(">q", 1 << 60), "cut off"),
        (b"[$d#L" + struct.pack(">q", -4), "negative"),
        (b"[$Z#L" + struct.pack(">q", 1 << 60), "array of type"),
        (b"[#L" + struct.pack(">q", 1 << 60), "claims"),
        (b"[" * 5000, "nests"),
        (b"S" + key(b"abc")[:-1], "cut off"),
        (b"N", "marker"),
        (b"TT", "follow"),
        (b"{" + 2 * (key(b"a") + b"T") + b"}", "twice"),
        (b"SSa", "length"),
        (b"", "cut off"),
    ],
)
def test_bad_ubjson(data, message):
    with pytest.raises(ValueError, match=message):
        ubjson.parse(data)


def _set(name, value):
    return lambda learner, tree: tree.__setitem__(name, value)


def _parameter(name, value):
    return lambda learner, tree: learner["learner_model_param"].__setitem__(name, value)


@pytest.mark.parametrize(
    "change, message",
    [
        (_set("left_children", [0, -1, -1]), "back to the root"),
        (_set("left_children", [2, -1, -1]), "two parents|two"),
        (_set("left_children", [7, -1, -1]), "outside"),
        (_set("right_children", [-1, -1, -1]), "lacks"),
        (_set("left_children", [1, -1]), "2 elements where 3"),
        (_set("split_indices", [9, 0, 0]), "feature"),
        (_set("split_conditions", [float("nan"), 1, 2]), "not finite"),
        (_set("split_conditions", [0.5, float("inf"), 2]), "not finite"),
        (_set("split_conditions", [1e300, 1, 2]), "not finite"),
        (_set("split_conditions", ["a", "b", "c"]), "more than numbers"),
        (_set("split_conditions", [[1], [2], [3]]), "flat"),
        (_set("default_left", [5, 0, 0]), "outside"),
        (_set("split_type", [1, 0, 0]), "categories"),
        (_set("tree_param", {"num_nodes": "0"}), "no nodes|elements where"),
        (_set("tree_param", {"num_nodes": "99999999999"}), "elements where"),
        (_set("tree_param", {"num_nodes": "3", "size_leaf_vector": "4"}), "leaves hold 4"),
        (_parameter("num_feature", "0"), "feature"),
        (_parameter("num_feature", "99999999999"), "claims"),
        (_parameter("num_class", "99999999999"), "claims"),
        (_parameter("num_feature", "x" * 100), "no count"),
        (_parameter("base_score", "nan"), "base_score"),
        (_parameter("base_score", "[1,2,3]"), "base_score"),
        (_parameter("base_score", 5), "no text"),
        (lambda learner, tree: learner["gradient_booster"].update(name="newer"), "unknown kind"),
        (lambda learner, tree: learner["gradient_booster"]["model"].update(tree_info=[3]), "outside"),
        (lambda learner, tree: learner["gradient_booster"]["model"].update(iteration_indptr=[0, 9]), "outside"),
        (lambda learner, tree: learner["gradient_booster"]["model"].update(trees={}), "no list"),
        (lambda learner, tree: learner.pop("objective"), "objective"),
        (lambda learner, tree: learner["objective"].update(name="binary:logistic")
            or learner["learner_model_param"].update(base_score="1.5"), "no probability"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(tmp_path, change, message):
    with pytest.raises(BadModelError, match=f"example.json.*({message})"):
        reader.read(changed(tmp_path, change), limits=MEMORY)


def test_an_unknown_objective_is_told(tmp_path):
    path = changed(tmp_path, lambda learner, tree: learner["objective"].update(name="reg:new"))
    with pytest.raises(UnsupportedOperatorError, match=r"example\.json.*reg:new"):
        reader.read(path)


def test_depth_is_bounded(tmp_path):
    def deepen(learner, tree):
        count = 2001
        inner = range(0, count - 1, 2)
        tree["tree_param"]["num_nodes"] = str(count)
        for name, value in (("left_children", -1), ("right_children", -1), ("split_indices", 0),
                            ("split_conditions", 0.0), ("default_left", 0)):  # fmt: skip
            tree[name] = [value] * count
        for node in inner:
            tree["left_children"][node], tree["right_children"][node] = node + 1, node + 2

    with pytest.raises(BadModelError, match="deeper"):
        reader.read(changed(tmp_path, deepen))


@pytest.mark.parametrize(
    "text", ['{"learner":' + '{"a":' * 100_000, '{"learner":{}} extra', '{"learner":{"a":' + "9" * 9999]
)
def test_json_that_is_none(tmp_path, text):
    path = tmp_path / "strange.json"
    path.write_text(text)
    with pytest.raises(BadModelError, match=r"strange\.json"):
        reader.read(path, limits=MEMORY)


def test_what_would_grow_beyond_memory_is_refused(tmp_path):
    path = reader.example(tmp_path)
    with pytest.raises(BadModelError, match="limit"):
        reader.read(path, limits=Limits(max_model_bytes=10_000))


def test_other_json_is_not_recognised(tmp_path):
    path = tmp_path / "other.json"
    for text in ('{"class_name": "Sequential"}', '{"learner": 3}', "[1]"):
        path.write_text(text)
        assert not reader.recognises(path)
    path.write_text('{"version": [1, 7, 6], "learner": {}}')
    assert reader.recognises(path)


def damaged(tmp_path, cases, seed):
    random = np.random.default_rng(seed)
    paths = sorted(FIXTURES.glob("*.[uj]*"))
    for case in range(cases):
        source = paths[case % len(paths)]
        data = bytearray(source.read_bytes())
        if case % 3 == 0:
            del data[int(random.integers(1, len(data))) :]
        for at in random.integers(0, len(data), 1 + case % 4).tolist():
            data[at] ^= int(random.integers(1, 256))
        path = tmp_path / source.name
        path.write_bytes(data)
        try:
            model = reader.read(path, limits=MEMORY)
            run_reference(model, {"x": np.zeros((1, model.signature.inputs[0].shape[1]), np.float32)})
        except RacelineError:
            continue


def test_damage_never_escapes(tmp_path):
    damaged(tmp_path, 200, seed=0)


@pytest.mark.slow
def test_damage_never_escapes_at_length(tmp_path):
    damaged(tmp_path, 4000, seed=1)
