"""The vectors of docs/unified-ir-v2.md: Raceline's reader and writer pass, and a reader of no shared code."""

import ast
import json
import os
import re
import shutil
from pathlib import Path

import minimal_reader
import numpy as np
import pytest

from raceline.convert import optimise
from raceline.core.errors import BadModelError
from raceline.ir import Bundle, run_reference

HERE = Path(__file__).parent
ROOT = HERE / "ir_v2"
VECTORS = json.loads((ROOT / "vectors.json").read_text())["vectors"]
VALID = [vector for vector in VECTORS if vector["verdict"] == "accept"]
INVALID = [vector for vector in VECTORS if vector["verdict"] == "reject"]
DOCUMENT = (HERE.parents[1] / "docs/unified-ir-v2.md").read_text()


def named(vector):
    return vector["folder"]


def arrays(held):
    return {name: np.array(t["data"], t["dtype"]).reshape(t["shape"]) for name, t in held.items()}


def assert_computes(got, vector):
    for name, expected in arrays(vector["outputs"]).items():
        assert got[name].dtype == expected.dtype and got[name].shape == expected.shape
        scale = max(1e-30, float(np.abs(expected).max(initial=0)))
        assert np.abs(got[name] - expected).max(initial=0) <= 1e-5 * scale


@pytest.mark.parametrize("vector", VALID, ids=named)
def test_raceline_reads_what_is_valid(vector):
    bundle = Bundle.open(ROOT / vector["folder"])
    assert_computes(run_reference(bundle.model, arrays(vector["inputs"])), vector)


@pytest.mark.parametrize("vector", VALID, ids=named)
def test_the_independent_reader_reads_what_is_valid(vector):
    _, proto = minimal_reader.read(ROOT / vector["folder"])
    assert_computes(minimal_reader.run(proto, arrays(vector["inputs"])), vector)


@pytest.mark.parametrize("vector", INVALID, ids=named)
def test_raceline_rejects_what_is_not(vector):
    with pytest.raises(BadModelError):
        Bundle.open(ROOT / vector["folder"])


@pytest.mark.parametrize("vector", INVALID, ids=named)
def test_the_independent_reader_rejects_what_is_not_by_the_rule(vector):
    with pytest.raises(minimal_reader.RejectedError, match=rf"^{vector['rule']}\b"):
        minimal_reader.read(ROOT / vector["folder"])


@pytest.mark.parametrize("vector", VALID, ids=named)
def test_what_raceline_writes_the_independent_reader_reads(vector, tmp_path):
    opened = Bundle.open(ROOT / vector["folder"])
    again = Bundle.write(
        tmp_path / "again", opened.model, profile=opened.profile, equivalence=opened.equivalence,
        attachments=opened.attachments,
    )  # fmt: skip
    sheet, proto = minimal_reader.read(tmp_path / "again")
    assert_computes(minimal_reader.run(proto, arrays(vector["inputs"])), vector)
    old = json.loads((ROOT / vector["folder"] / "bundle.json").read_text())
    assert {key: sheet[key] for key in ("signature", "provenance", "equivalence")} == {
        key: old[key] for key in ("signature", "provenance", "equivalence")
    }
    assert set(sheet["files"]) == set(old["files"])
    assert again.model_sha256 == opened.model_sha256 or opened.model_sha256 == old["model_sha256"]
    for tensor in Bundle.open(tmp_path / "again").model.program.graph.initializers.values():
        assert tensor.const_value is not None


@pytest.mark.parametrize(
    "vector", [v for v in VALID if "external" in v["folder"] or "unaligned" in v["folder"]], ids=named
)
def test_what_raceline_writes_is_aligned(vector, tmp_path):
    import onnx

    Bundle.write(tmp_path / "b", Bundle.open(ROOT / vector["folder"]).model)
    proto = onnx.load(str(tmp_path / "b/model.onnx"), load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data]
    assert places
    for place in places:
        assert place["location"] == "weights.bin"
        assert int(place["offset"]) % (4096 if int(place["length"]) >= 4096 else 64) == 0


@pytest.mark.parametrize("vector", VALID, ids=named)
def test_the_independent_reader_reads_optimised_models(vector, tmp_path):
    model, _ = optimise(Bundle.open(ROOT / vector["folder"]).model)
    Bundle.write(tmp_path / "b", model)
    _, proto = minimal_reader.read(tmp_path / "b")
    assert_computes(minimal_reader.run(proto, arrays(vector["inputs"])), vector)


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx", "weights.bin"])
def test_links_and_pipes_are_rejected(name, tmp_path):
    for kind in ("link", "pipe", "folder"):
        folder = tmp_path / kind
        shutil.copytree(ROOT / "valid/external", folder)
        (folder / name).rename(tmp_path / f"{kind}-{name}")
        if kind == "link":
            (folder / name).symlink_to(tmp_path / f"{kind}-{name}")
        elif kind == "pipe":
            os.mkfifo(folder / name)
        else:
            (folder / name).mkdir()
        with pytest.raises(BadModelError):
            Bundle.open(folder)
        with pytest.raises(minimal_reader.RejectedError, match="^F2"):
            minimal_reader.read(folder)


def test_every_rule_of_the_document_has_a_vector_or_a_test():
    rules = set(re.findall(r"^- (?:\S.* )?\[([A-Z]\d)\]|\[([A-Z]\d)\] A reader", DOCUMENT, re.M))
    known = {one or other for one, other in rules}
    tested = {vector["rule"] for vector in INVALID} | {"F2"}
    # F1 is about how files are opened, F4 about 64 MiB, G8 about limits: tests/unit has them.
    assert known - tested == {"F1", "F4", "G8"}
    assert tested <= known


def test_the_independent_reader_and_the_vectors_know_nothing_of_raceline():
    for name in ("minimal_reader.py", "make_ir_v2.py"):
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse((HERE / name).read_text()))
            for alias in getattr(node, "names", [])
            if isinstance(node, ast.Import)
        } | {
            node.module.split(".")[0]
            for node in ast.walk(ast.parse((HERE / name).read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert "raceline" not in imported


def test_the_vectors_are_what_the_script_makes(tmp_path, monkeypatch):
    import make_ir_v2

    made = tmp_path / "ir_v2"
    monkeypatch.setattr(make_ir_v2, "ROOT", made)
    monkeypatch.setattr(make_ir_v2, "RNG", np.random.default_rng(20261126))
    make_ir_v2.main()
    kept = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    assert sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file()) == kept
    assert [str(path) for path in kept if (made / path).read_bytes() != (ROOT / path).read_bytes()] == []
