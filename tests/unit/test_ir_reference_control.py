"""Loop and Scan against ONNX Runtime."""

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest

from raceline.ir import Model, run_reference, signature_of

LOOP = """<ir_version: 9, opset_import: ["": 17]>
    main (float[2, 3] x, int64 turns, bool goes) => (float[2, 3] last, float[T, 2, 3] all, int64[T] counts) {{
        last, all, counts = Loop ({turns}, {goes}, x) <
            body = turn (int64 i, bool go, float[2, 3] h) => (bool on, float[2, 3] k, float[2, 3] z, int64 n) {{
                n = Identity(i)
                k = Add(h, x)
                z = Mul(k, k)
                most = Constant<value_int = 3>()
                on = {on}
            }}
        >
    }}"""
X = np.float32([[1, -2, 3], [0.5, 0, -1]])


def both(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    expected = dict(
        zip(names, session.run(None, {n: a for n, a in feeds.items() if n in wanted}), strict=True)
    )
    program = onnx_ir.from_proto(model)
    signature = signature_of(program)
    found = run_reference(
        Model(program, signature), {spec.name: feeds[spec.name] for spec in signature.inputs}
    )
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
        assert found[name].dtype == value.dtype
    return found


@pytest.mark.parametrize("on", ["Identity(go)", "Less(i, most)"])
@pytest.mark.parametrize("turns, goes", [("turns", "goes"), ("turns", ""), ("", "goes")])
def test_loops(turns, goes, on):
    if not turns and on == "Identity(go)":
        on = "Less(i, most)"  # or it would never end
    model = onnx.parser.parse_model(LOOP.format(turns=turns or '""', goes=goes or '""', on=on))
    both(model, {"x": X, "turns": np.array(2), "goes": np.array(True)})


def test_a_loop_that_never_turns():
    model = onnx.parser.parse_model(LOOP.format(turns="turns", goes="goes", on="Identity(go)"))
    for turns, goes in ((0, True), (3, False)):
        found = both(model, {"x": X, "turns": np.array(turns), "goes": np.array(goes)})
        assert found["all"].shape == (0, 2, 3)


SCAN = """<ir_version: 9, opset_import: ["": 17]>
    main (float[2] h, float[2, 5] x, float[5, 2] w) => (float[2] last, float[a, b] all) {{
        last, all = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [{back}, 1],
            scan_output_axes = [{axis}], scan_output_directions = [{back}],
            body = turn (float[2] s, float[2] p, float[2] q) => (float[2] t, float[2] o) {{
                u = Add(s, p)
                t = Mul(u, h)
                o = Sub(t, q)
            }}> (h, x, w)
    }}"""


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("back", [0, 1])
def test_scans(axis, back):
    rng = np.random.default_rng(0)
    feeds = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in (("h", 2), ("x", (2, 5)), ("w", (5, 2)))
    }
    both(onnx.parser.parse_model(SCAN.format(axis=axis, back=back)), feeds)
