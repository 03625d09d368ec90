"""Bundles that were changed after they were written: found, and the file named."""

import hashlib
import json
import os
import shutil

import ir_models as m
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_ir_bundle import profile_of, wide

from raceline.core.errors import BadModelError, RacelineError
from raceline.ir import Bundle, Limits, write_onnx


@pytest.fixture
def place(tmp_path):
    model = wide(tmp_path)
    Bundle.write(tmp_path / "b", model, profile=profile_of(model), attachments={"report.html": b"report"})
    return tmp_path / "b"


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "report.html"])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_one_changed_byte_is_found_and_its_file_named(place, name, where):
    data = bytearray((place / name).read_bytes())
    data[min(len(data) - 1, int(where * len(data)))] ^= 1
    (place / name).write_bytes(data)
    with pytest.raises(BadModelError, match=name):
        Bundle.open(place)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "report.html", "bundle.json"])
@pytest.mark.parametrize("how", ["cut", "grown", "absent", "folder", "link", "pipe"])
def test_a_changed_file_is_named_even_without_digests(place, name, how):
    path = place / name
    content = path.read_bytes()
    path.unlink()
    if how in {"cut", "grown"}:
        path.write_bytes(content[:-2] if how == "cut" else content + b"}")
    elif how == "folder":
        path.mkdir()
    elif how == "link":
        (place.parent / "elsewhere").write_bytes(content)
        path.symlink_to("../elsewhere")
    elif how == "pipe":
        os.mkfifo(path)
    with pytest.raises(BadModelError, match=name):
        Bundle.open(place, verify=False)


def test_no_bundle_is_told(tmp_path):
    for folder in (tmp_path / "absent", tmp_path, tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(BadModelError, match="no whole bundle|no bundle"):
            Bundle.open(folder)


def changed(place, change):
    path = place / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _path_out(data):
    data["files"]["../../etc/passwd"] = data["files"].pop("report.html")


def _absolute(data):
    data["files"]["/etc/passwd"] = data["files"].pop("report.html")


def _newer(data):
    data["format_version"] = 3


def _other(data):
    data["format"] = "something.else"


def _extra(data):
    data["surprise"] = 1


def _missing(data):
    del data["provenance"]


def _axis(data):
    data["signature"]["inputs"][0]["shape"] = [-1, 4]


def _renamed(data):
    data["signature"]["inputs"][0]["name"] = "z"


def _truth(data):
    data["files"]["model.onnx"]["size_bytes"] = True


def _digest(data):
    data["files"]["model.onnx"]["sha256"] = "../x"


def _itself(data):
    data["files"]["bundle.json"] = data["files"]["model.onnx"]


def _no_model(data):
    del data["files"]["model.onnx"]


def _no_weights(data):
    del data["files"]["weights.bin"]


def _latency(data):
    data["profile"]["measurements"][0]["latency_s"] = "fast"


def _engine(data):
    data["profile"]["measurements"][0]["candidate"]["engine"] = {"a": 1}


@pytest.mark.parametrize(
    "change",
    [_path_out, _absolute, _newer, _other, _extra, _missing, _axis, _renamed, _truth, _digest, _itself,
     _no_model, _no_weights, _latency, _engine],
)  # fmt: skip
def test_a_manifest_that_lies_is_refused(place, change):
    changed(place, change)
    with pytest.raises(BadModelError):
        Bundle.open(place)


def test_a_model_that_points_out_of_the_bundle_is_refused(tmp_path, place):
    model = m.read(m.perceptron(), tmp_path)
    write_onnx(model, tmp_path / "model.onnx", external_threshold_bytes=8)  # refers to model.onnx.data
    content = (tmp_path / "model.onnx").read_bytes()
    shutil.copy(tmp_path / "model.onnx", place / "model.onnx")

    def fit(data):
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        data["files"]["model.onnx"] = entry

    changed(place, fit)
    with pytest.raises(BadModelError, match=r"refers to 'model\.onnx\.data'"):
        Bundle.open(place)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places_in(data, at=()):
    """Every path into a JSON value."""
    yield at
    for key, value in (
        data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    ):
        yield from places_in(value, (*at, key))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_to_a_manifest_is_refused_or_harmless(place, data):
    path = place / "bundle.json"
    original = (
        json.loads((place.parent / "keep.json").read_text())
        if (place.parent / "keep.json").exists()
        else None
    )
    if original is None:
        original = json.loads(path.read_text())
        (place.parent / "keep.json").write_text(path.read_text())
    at = data.draw(st.sampled_from([p for p in places_in(original) if p]))
    mutated = json.loads(json.dumps(original))
    holder = mutated
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = data.draw(JSON)
    path.write_text(json.dumps(mutated))
    try:
        bundle = Bundle.open(place)
    except RacelineError:
        return
    assert bundle.model.signature.inputs[0].name == "x"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=100)
    | st.sampled_from([b"[" * 100_000, b'{"format":' * 50_000, b"null", b"\xff"])
)
def test_any_text_as_a_manifest_is_refused(place, content):
    (place / "bundle.json").write_bytes(content)
    with pytest.raises(BadModelError):
        Bundle.open(place)


def test_limits_hold_for_bundles_too(place):
    with pytest.raises(BadModelError, match="too large"):
        Bundle.open(place, limits=Limits(max_model_bytes=10_000))
