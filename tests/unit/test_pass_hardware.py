"""Passes that fit a graph to the hardware: whatever the sizes, every number stays where and what it was."""

import numpy as np
import pytest

from raceline.convert import Rewrite, optimise
from raceline.convert.example import model_from_text
from raceline.ir import make_inputs, run_reference

CONVOLUTIONS = [
    # (input, weights, strides, pads, what follows)
    ((2, 24, 16, 22), (1, 24, 5, 5), (1, 1), (2, 2, 2, 2), "Relu"),
    ((2, 24, 16, 22), (1, 24, 5, 5), (1, 1), (0, 1, 2, 0), ""),  # sizes that no block divides: cropped
    ((1, 8, 20, 40), (8, 8, 3, 39), (1, 1), (1, 19, 1, 19), "Relu"),
    ((3, 32, 21, 16), (2, 32, 5, 5), (2, 3), (2, 1, 2, 1), "Sigmoid"),
    ((2, 2, 300), (1, 2, 129), (2,), (5, 0), "Tanh"),
    ((1, 6, 9, 10, 11), (1, 6, 3, 5, 3), (1, 2, 1), (1, 0, 1, 0, 2, 1), ""),
]


def convolution(shape, weights, strides, pads, follower):
    sizes = [
        (size + pads[axis] + pads[axis + len(strides)] - kernel) // stride + 1
        for axis, (size, kernel, stride) in enumerate(zip(shape[2:], weights[2:], strides, strict=True))
    ]
    inputs, kernel = (",".join(map(str, s)) for s in (("N", *shape[1:]), weights))
    outputs = ",".join(map(str, ("N", weights[0], *sizes)))
    last = f"y = {follower}(c)" if follower else ""
    return model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        main (float[{inputs}] x, float[{kernel}] w, float[{weights[0]}] b) => (float[{outputs}] y) {{
            {"c" if follower else "y"} = Conv<strides = {list(strides)}, pads = {list(pads)}>(x, w, b)
            {last}
        }}""",
        w=weights,
        b=(weights[0],),
    )


def fired(report):
    return {item.pass_name for item in report if isinstance(item, Rewrite)}


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: f"{case[1]} over {case[0]}")
def test_a_widened_convolution_computes_the_same(case):
    model = convolution(*case)
    result, report = optimise(model)
    assert "widen_convolution" in fired(report)
    assert not fired(optimise(result)[1])
    inputs = make_inputs(model.signature, {"x": case[0]}, seed=3)
    before, after = run_reference(model, inputs)["y"], run_reference(result, inputs)["y"]
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_one_hot_product_is_a_look_up_for_every_number_there_is(turned, dtype):
    pair = "classes, x" if turned else "x, classes"
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        main ({dtype}[N, 1] x, {dtype}[1, 3] classes, float[3, 4] w, float[4] b) => (float[N, 4] y) {{
            hit = Equal({pair})
            hot = Cast<to = 1>(hit)
            row = MatMul(hot, w)
            sum = Add(row, b)
            y = Tanh(sum)
        }}""",
        classes=np.arange(3, dtype=dtype).reshape(1, 3),
        w=(3, 4),
        b=(4,),
    )
    result, report = optimise(model)
    assert {"fold_one_hot", "fold_table"} <= fired(report)
    assert "MatMul" not in {node.op_type for node in result.program.graph}
    edges = np.iinfo(dtype)
    x = np.array([[0], [1], [2], [3], [-1], [-2], [edges.max], [edges.min]], dtype)
    before, after = (run_reference(m, {"x": x})["y"] for m in (model, result))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert np.unique(after[3:], axis=0).shape == (1, 4)  # whatever is no class has the row of zeros


def test_a_stack_that_was_cut_and_turned_is_stacked_as_it_is_wanted():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4, 6, 1] a, float[N, 4, 6, 1] b, int32[2] starts, int32[2] ends, int32[2] axes)
            => (float[N, 2, 4, 4] y) {
            stack = Concat<axis = 3>(a, b)
            cut = Slice(stack, starts, ends, axes)
            y = Transpose<perm = [0, 3, 1, 2]>(cut)
        }""",
        starts=np.array([1, 0], np.int32),
        ends=np.array([5, 4], np.int32),
        axes=np.array([-2, 1], np.int32),
    )
    result, report = optimise(model)
    assert "hoist_transpose" in fired(report)
    assert "Transpose" not in {node.op_type for node in result.program.graph}
    inputs = make_inputs(model.signature, {"a": (2, 4, 6, 1), "b": (2, 4, 6, 1)}, seed=0)
    np.testing.assert_array_equal(run_reference(result, inputs)["y"], run_reference(model, inputs)["y"])
