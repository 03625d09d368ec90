"""Moving and cancelling quantisation is exact, whatever the scale; and what would not be is left."""

import numpy as np
import pytest

from raceline.convert import Refusal, Rewrite, optimise
from raceline.convert.example import model_from_text
from raceline.ir import make_inputs, run_reference

TEXT = """<ir_version: 9, opset_import: ["": 19]>
    main ({kind}[N, 3, 4] q, float[{n}] scale, {kind}[{n}] zero, float[1] scale2, {kind}[1] zero2, int64[3] turned)
        => ({kind}[N, 4, 3] y) {{
        x = DequantizeLinear<axis = 1>(q, scale, zero)
        h = {middle}
        y = QuantizeLinear<axis = 1>(h, {last})
    }}"""
TURN = "Transpose<perm = [0, 2, 1]>(x)"


def built(middle=TURN, kind="int8", scales=(0.07,), second=None):
    zeros = np.arange(len(scales)).astype(kind) + 3
    last = "scale, zero" if second is None else "scale2, zero2"
    return model_from_text(
        TEXT.format(middle=middle, kind=kind, n=len(scales), last=last),
        scale=np.array(scales, np.float32), zero=zeros, turned=np.array([0, 4, 3]),
        scale2=np.array([second or 1], np.float32), zero2=np.array([1], kind),
    )  # fmt: skip


def fired(report):
    return {item.pass_name for item in report if isinstance(item, Rewrite)}


def same(model, result):
    for seed in range(3):
        feeds = make_inputs(model.signature, model.signature.concrete({"N": 5}), seed=seed)
        before, after = run_reference(model, feeds), run_reference(result, feeds)
        for name, value in before.items():
            np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("middle", [TURN, "Reshape(x, turned)"])
@pytest.mark.parametrize("scale", [0.07, 1e-30, 3e4])
def test_a_pair_around_a_rearrangement_goes(kind, middle, scale):
    model = built(middle, kind, (scale,))
    result, report = optimise(model)
    assert {"move_quantisation", "cancel_quantisation"} <= fired(report)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in result.program.graph}
    same(model, result)


def test_other_numbers_round_anew():
    model = built(second=0.09)
    result, report = optimise(model)
    assert "cancel_quantisation" not in fired(report)
    assert any(i.pass_name == "cancel_quantisation" and "rounds anew" in i.reason for i in report)
    same(model, result)


def test_a_scale_for_each_channel_stays_with_its_channels():
    model = built(scales=(0.1, 0.2, 0.3), second=0.2)
    result, report = optimise(model)
    assert any(
        isinstance(i, Refusal) and i.pass_name == "move_quantisation" and "each channel" in i.reason
        for i in report
    )
    same(model, result)


def test_arithmetic_is_not_passed():
    model = model_from_text(
        """<ir_version: 9, opset_import: ["": 19]>
        main (int8[N, 4] q, float scale, int8 zero) => (int8[N, 4] y) {
            x = DequantizeLinear(q, scale, zero)
            h = Sigmoid(x)
            y = QuantizeLinear(h, scale, zero)
        }""",
        scale=np.array(0.07, np.float32),
        zero=np.array(3, np.int8),
    )
    result, report = optimise(model)
    assert not fired(report) & {"move_quantisation", "cancel_quantisation"}
    same(model, result)


def test_joined_integers_of_one_scale_are_joined_as_integers():
    model = model_from_text(
        """<ir_version: 9, opset_import: ["": 19]>
        main (int8[N, 4] a, int8[N, 2] b, float scale, int8 zero) => (float[N, 6] y) {
            x = DequantizeLinear(a, scale, zero)
            z = DequantizeLinear(b, scale, zero)
            y = Concat<axis = 1>(x, z)
        }""",
        scale=np.array(0.07, np.float32),
        zero=np.array(3, np.int8),
    )
    result, report = optimise(model)
    assert [node.op_type for node in result.program.graph] == ["Concat", "DequantizeLinear"]
    same(model, result)
