"""What was measured about convolutions is kept between processes, and only ever changes how fast they are."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from raceline import _native, engines
from raceline.convert import differences
from raceline.convert.example import model_from_text
from raceline.core.paths import cache_dir
from raceline.engines import Options
from raceline.engines.native import methods
from raceline.ir import make_inputs, run_reference

TEXT = """<ir_version: 8, opset_import: ["": 17]>
    main (float[1, 37, H, W] x, float[43, 37, 3, 3] w) => (float[1, 43, P, Q] y) { y = Conv(x, w) }"""
SHAPE = (1, 37, 19, 23)  # of no other test: the process remembers


@pytest.fixture
def anew(monkeypatch):
    monkeypatch.setattr(methods, "_stored", None)


def run_one(shape):
    model = model_from_text(TEXT, w=(43, 37, 3, 3))
    inputs = make_inputs(model.signature, {"x": shape}, seed=0)
    engine = engines.load("native")
    found = engine.load(model, Options(shapes={"x": shape})).run(inputs)
    assert all(d.ok for d in differences(run_reference(model, inputs), found, engine.tolerance))


def stored():
    (file,) = (cache_dir() / "native").glob("*.json")
    return file, json.loads(file.read_text())["methods"]


def test_another_process_knows_what_this_one_measured():
    run_one(SHAPE)
    _, kept = stored()
    key = next(key for key in kept if " 37 19 23 43 17 21 " in key)
    code = (
        "import json; from raceline import _native; from raceline.engines.native import methods;"
        "methods.learn(); print(json.dumps(_native.net_methods()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[key] == list(_native.net_methods()[key]) == kept[key]


def test_what_others_stored_meanwhile_stays(anew):
    run_one((1, 37, 12, 23))
    file, kept = stored()
    file.write_text(json.dumps({"format": 1, "methods": kept | {"theirs": [0, 1, 1, True, 4, 1]}}))
    run_one((1, 37, 13, 23))
    assert stored()[1].keys() >= kept.keys() | {"theirs"}


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"format": 9, "methods": {}}', '{"format": 1, "methods": {"a": [1]}}',
     '{"format": 1, "methods": {"a": [1, 2, 3, 4, 5, 1e9]}}',
     '{"format": 1, "methods": {"a": [1, 2, 3, 4, 5, 99999999999]}}',
     '{"format": 1, "methods": [1]}', "[" * 100000],
)  # fmt: skip
def test_a_damaged_file_is_told_and_replaced(anew, damage, caplog):
    run_one(SHAPE)
    file, _ = stored()
    file.write_text(damage)
    methods._stored = None
    with caplog.at_level(logging.WARNING):
        run_one(SHAPE)
    assert "damaged" in caplog.text
    assert any(" 37 19 23 43 17 21 " in key for key in stored()[1])


def test_a_way_that_a_layer_does_not_have_is_not_used():
    """As an older build's file may name one: the layer is measured anew."""
    shape = (1, 37, 14, 23)
    run_one(shape)
    key = next(key for key in _native.net_methods() if " 37 14 23 43 12 21 " in key)
    code = (
        "import sys; from raceline import _native; from tests.unit import test_native_methods as t;"
        f"_native.learn_net_methods({{{key!r}: (7, 99, -1, True, 3, 10**6)}}); t.methods._stored = set();"
        f"t.run_one({shape}); print(_native.net_methods()[{key!r}])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() != "(7, 99, -1, True, 3, 1000000)"


def test_only_numbers_are_learned():
    with pytest.raises(TypeError):
        _native.learn_net_methods({"a": (0, 1, 1, True, 4, 1 << 40)})
    assert "a" not in _native.net_methods()
