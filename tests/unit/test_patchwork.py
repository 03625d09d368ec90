"""Models with a node that ONNX Runtime lacks run all the same."""

from dataclasses import replace

import numpy as np
import pytest

from raceline import engines
from raceline.convert import tune
from raceline.convert.example import model_from_text
from raceline.core.errors import UnsupportedOperatorError
from raceline.ir import Candidate, run_reference
from raceline.ir.probe import describe

# ONNX Runtime 1.32 has no kernel of opset 26 for Swish.
TEXT = """<ir_version: 10, opset_import: ["": 26]>
    main (float[N, 4] x, float[4, 4] w, bool more) => (float[N, 4] y, float[N, 4] gated) {
        h = MatMul(x, w)
        a = Relu(h)
        gated = Swish(a)
        again = Swish<alpha = 2.0>(gated)
        s = Add(again, h)
        y = If (more) <
            then_branch = yes () => (float[N, 4] p) { p = Mul(s, s) },
            else_branch = no () => (float[N, 4] q) { q = Neg(s) }
        >
    }"""


@pytest.fixture
def model():
    return model_from_text(TEXT, w=(4, 4))


def feeds(more=True, rows=3):
    x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
    return {"x": x, "more": np.array(more)}


def test_what_is_lacking_is_computed_by_the_reference(model):
    with pytest.raises(UnsupportedOperatorError, match="Swish"):
        engines.load("onnxruntime").load(model, engines.Options())
    session = engines.prepare(model, Candidate("patchwork"), {})
    fast = [part for part in session._parts if part.session is not None]
    assert fast and len(fast) < len(session._parts)
    for more in (True, False):
        for rows in (1, 3):
            expected = run_reference(model, feeds(more, rows))
            found = session.run(feeds(more, rows))
            assert list(found) == ["y", "gated"]
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
                assert found[name].dtype == value.dtype
    session.close()


def test_what_is_taken_whole_is_not_cut():
    model = model_from_text(
        '<ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    session = engines.load("patchwork").load(model, engines.Options())
    assert type(session).__module__ == "raceline.engines.onnxruntime"


def test_the_tuner_falls_back_to_it(model, tmp_path, monkeypatch):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path))
    here = describe()
    alone = replace(here, engines=tuple(choice for choice in here.engines if choice.engine == "onnxruntime"))
    shapes = {"x": (2, 4), "more": ()}
    profile = tune(model, model, alone, shapes=shapes, batches=(1,), threads=(1,), budget_s=2.0)
    assert profile.best(threads=1).candidate.engine == "patchwork"
    assert {m.candidate.engine for m in profile.measurements if m.failure} == {"onnxruntime"}


def test_nodes_keep_their_order_where_values_go_back_and_forth():
    """Every other node is one that must be patched, and a value is read again long after it was made."""
    lines = ["h0 = Identity(x)"]
    for i in range(6):
        lines += [f"b{i} = Swish(h{i})", f"h{i + 1} = Add(b{i}, x)"]
    body = " ".join([*lines, "y = Sub(h6, h1)"])
    model = model_from_text(
        f'<ir_version: 10, opset_import: ["": 26]> main (float[N] x) => (float[N] y) {{ {body} }}'
    )
    session = engines.load("patchwork").load(model, engines.Options())
    assert len(session._parts) == 13
    x = np.float32([1, -2])
    np.testing.assert_allclose(session.run({"x": x})["y"], run_reference(model, {"x": x})["y"], rtol=1e-5)
