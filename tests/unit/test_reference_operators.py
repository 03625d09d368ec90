"""Operators of the reference by many attributes: held to ONNX Runtime, to torch, or to the standard's text.

Most of them are those of onnx's own evaluator, some take its place. Where ONNX Runtime is not what the standard
says, the case is not in the sweep; the tests below the sweep tell what the reference does instead.
"""

from itertools import product
from statistics import NormalDist

import ir_models as m
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from test_ir_reference import MOMENTS, PICTURE, bytes_, floats, ints, one_node, unread

from raceline.ir import Reference
from raceline.ir.reference_trees import _transformed

NAN, INF = np.nan, np.inf
BOTH = (0, 1)


EQUATIONS = {
    "...ij,...jk->...ik": ((2, 3, 4), (2, 4, 5)),
    "bij,bjk": ((2, 3, 4), (2, 4, 5)),
    "...ii->...i": ((2, 3, 3),),
    "...i->...": ((2, 3),),
    "b...d,e...d->b...e": ((2, 3, 4), (5, 3, 4)),
    "i,i": ((3,), (3,)),
}


def single(*values):
    return np.array(values, np.float32)


def small(*shape):
    """Whole numbers with many that are equal."""
    return np.random.default_rng(sum(shape)).integers(0, 4, shape)


def boxes(center):
    places = np.random.default_rng(3).uniform(0, 10, (2, 9, 2))
    sizes = np.random.default_rng(4).uniform(1, 6, (2, 9, 2))
    ends = [places, sizes] if center else [places + sizes / 2, places - sizes / 2]
    return np.concatenate(ends, axis=-1).astype(np.float32)


def pads():
    amounts = [
        [1, 2, 1, 0, 2, 1],
        [0, 0, -1, 1, -1, 2],
        [2, 3, 4, 2, 3, 4],
        [4, 0, 0, 0, 0, 9],
        [0, -2, 0, 0, 2, 0],
    ]
    for opset, mode in product((13, 21), ("constant", "reflect", "edge", "wrap")):
        for amount in (
            amounts[:2] if mode == "reflect" else amounts
        ):  # further than the input ONNX Runtime refuses
            if opset >= 19 or mode != "wrap":
                yield "Pad", opset, [floats(3, 4, 5), ints(*amount)], {"mode": mode}
        if opset >= 19:
            yield "Pad", opset, [floats(3, 4, 5), ints(1, 1, 0, -1), None, ints(-1, 0)], {"mode": mode}


def orders():
    x = small(3, 7).astype(np.float32)
    for axis, largest, kind in product((0, -1), BOTH, (np.float32, np.int64)):
        yield "TopK", 11, [x.astype(kind), ints(3)], {"axis": axis, "largest": largest}, 2
    for name, axis, kept, last in product(("ArgMax", "ArgMin"), (0, 1, -1), BOTH, BOTH):
        yield name, 13, [x], {"axis": axis, "keepdims": kept, "select_last_index": last}
    yield "TopK", 11, [single(1, NAN, INF, -INF, 2), ints(4)], {}, 2


def arithmetic():
    left, right = np.array([-7, 7, -7, 7, 0, 5]), np.array([3, -3, -3, 3, 4, -2])
    for kind in (np.int8, np.int32, np.int64, np.float32):
        for remainder in BOTH if kind is not np.float32 else (1,):
            yield "Mod", 13, [left.astype(kind), right.astype(kind)], {"fmod": remainder}
        yield "Div", 14, [left.astype(kind), right.astype(kind)], {}
    yield "Pow", 15, [np.array([2, 3, 5], np.int32), single(0.5, 1.5, 2)], {}
    some, others = single(1, NAN, 3, INF), single(NAN, 2, 1, 2)
    for name, opset in product(("Min", "Max"), (8, 13)):
        yield name, opset, [some, others, single(0, 5).reshape(2, 1)], {}
    yield "Clip", 13, [some, np.float32(1.5), np.float32(2)], {}
    yield "Clip", 13, [some, np.float32(3), np.float32(1)], {}
    yield "Where", 16, [np.array([True, False, True, False]), some, others], {}
    yield "Round", 11, [single(0.5, 1.5, 2.5, -0.5, -1.5)], {}


def quantised():
    x = single(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 300, -300, 0.49, 127.5, 255.5).reshape(3, 4)
    scales, blocks = abs(floats(4)) + 0.1, abs(floats(3, 2)) + 0.1
    for kind, opset in product((np.uint8, np.int8), (13, 21)):
        zeros, stored = np.arange(4).astype(kind), bytes_(3, 4).astype(kind)
        yield "QuantizeLinear", opset, [x, np.float32(1), kind(3)], {}
        yield "QuantizeLinear", opset, [x, scales, zeros], {"axis": -1}
        yield "DequantizeLinear", opset, [stored, scales, zeros], {"axis": 1}
        if opset >= 21:
            yield "QuantizeLinear", opset, [x, blocks, stored[:, :2]], {"axis": 1, "block_size": 2}
            yield "DequantizeLinear", opset, [stored, blocks], {"axis": 1, "block_size": 2}
    for to, kind in product((2, 3, 6, 7, 9, 10, 11), (np.float32, np.float64)):
        yield "Cast", 13, [abs(x.astype(kind)) % 100], {"to": to}


def scattered():
    whole, far, updates = floats(4, 3), np.array([[0, 0, 2], [1, -1, 1]]), floats(2, 3)
    slices, places = floats(4, 3, 2), np.array([[0, 1], [0, 1], [-1, -1]])
    for how, axis in product(("add", "mul", "max", "min"), BOTH):
        yield "ScatterElements", 18, [whole, far, updates], {"reduction": how, "axis": axis}
        yield "ScatterND", 18, [slices, places, floats(3, 2)], {"reduction": how}
    for axis, exclusive, reverse in product((0, 1, -1), BOTH, BOTH):
        yield "CumSum", 14, [whole, np.array(axis)], {"exclusive": exclusive, "reverse": reverse}
    yield "CumSum", 14, [whole, ints(1)], {}
    for axis, indices in product((0, -1), ([[0, -1], [2, 5]], [[-3, -4], [2, 0]])):
        yield "OneHot", 11, [np.array(indices), ints(3), single(2, 7)], {"axis": axis}


def normalised():
    for shape in ((2, 4, 3), (2, 4, 3, 5)):
        x = floats(*shape)
        for axis in range(-len(shape), len(shape)):
            parts = [x, floats(*shape[axis:]), floats(*shape[axis:])]
            yield "LayerNormalization", 17, parts, {"axis": axis}, 3
            yield "RMSNormalization", 23, parts[:2], {"axis": axis}
        yield "InstanceNormalization", 6, [x, floats(4), floats(4)], {"epsilon": 0.01}
        yield "GroupNormalization", 21, [x, floats(4), floats(4)], {"num_groups": 2}
    yield "LRN", 13, [PICTURE], {"size": 3, "alpha": 0.1, "beta": 0.6}
    for size in (2, 4):
        yield "LayerNormalization", 17, [floats(size, 3), floats(3)], {"axis": -1, "epsilon": 0.1}, 2


def reduced():
    x = abs(floats(2, 3, 4)) + 0.1
    for name in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"):
        opset = 13 if name == "Sum" else 18
        for kept in BOTH:
            yield f"Reduce{name}", 11, [x], {"axes": [0, -1], "keepdims": kept}
            yield f"Reduce{name}", opset, [x, ints(0, -1)], {"keepdims": kept}
            for nothing in BOTH:
                options = {"keepdims": kept, "noop_with_empty_axes": nothing}
                yield f"Reduce{name}", opset, [x], options
                yield f"Reduce{name}", opset, [x, ints()], options
        if name != "LogSum":
            yield f"Reduce{name}", opset, [(9 * x).astype(np.int32), ints(1)], {}
    extremes = single(100, 200, -1e3, -2e3, -INF, -INF, INF, 1).reshape(4, 2)
    yield "ReduceLogSumExp", 18, [extremes, ints(1)], {}
    yield "ReduceLogSumExp", 18, [np.zeros((2, 0), np.float32), ints(1)], {}


def shaped():
    for mode in ("DCR", "CRD"):
        yield "DepthToSpace", 13, [floats(1, 8, 2, 3)], {"blocksize": 2, "mode": mode}
    for k, upper, shape in product((-9, -1, 0, 2, 9), BOTH, ((3, 4), (2, 4, 3))):
        yield "Trilu", 14, [floats(*shape), np.array(k)], {"upper": upper}
    for equation, shapes in EQUATIONS.items():
        yield "Einsum", 12, [floats(*shape) for shape in shapes], {"equation": equation}


def detected():
    rois = single(0, 0, 4, 4, 1, 2, 6, 7, -2, -3, 20, 12, 3, 3, 3.2, 3.1).reshape(4, 4)
    for mode, place, samples in product(("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 2)):
        options = {"mode": mode, "coordinate_transformation_mode": place, "sampling_ratio": samples}
        sizes = {"output_height": 3, "output_width": 2, "spatial_scale": 0.5}
        yield "RoiAlign", 16, [floats(2, 3, 9, 11), rois, ints(0, 1, 0, 1)], options | sizes
    scores = np.random.default_rng(5).uniform(0, 1, (2, 3, 9)).astype(np.float32)
    for center, most, overlap, least in product(BOTH, (None, 0, 3), (None, 0.3, 1.0), (None, 0.4)):
        limits = [None if limit is None else single(limit) for limit in (overlap, least)]
        given = [boxes(center), scores, None if most is None else ints(most), *limits]
        yield "NonMaxSuppression", 11, given, {"center_point_box": center}


SWEEP = (
    pads, orders, arithmetic, quantised, scattered, normalised, reduced, shaped, detected,
)  # fmt: skip


@pytest.mark.parametrize("cases", SWEEP, ids=lambda cases: cases.__name__)
def test_operators_are_those_of_onnx_runtime(cases):
    for operator, opset, inputs, attributes, *count in cases():
        told = f"{operator}-{opset} {attributes} {[None if x is None else np.shape(x) for x in inputs]}"
        proto, feeds = one_node(operator, opset, inputs, *count, **attributes)
        found = Reference(unread(proto)).run(feeds)
        for name, expected in m.judged(proto, feeds).items():
            assert found[name].shape == expected.shape and found[name].dtype == expected.dtype, told
            np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=told)


# Where ONNX Runtime cannot be asked -------------------------------------------------------------------------


def computed(operator, opset, inputs, num_outputs=1, **attributes):
    proto, feeds = one_node(operator, opset, inputs, num_outputs, **attributes)
    return list(Reference(unread(proto)).run(feeds).values())


def test_training_normalises_by_the_batch_as_torch_does():
    scale, bias, mean, variance = MOMENTS
    moved, spread = torch.from_numpy(mean.copy()), torch.from_numpy(variance.copy())
    weights = (torch.from_numpy(scale), torch.from_numpy(bias))
    # torch's momentum is that of the batch; its running variance is unbiased, the standard's is not.
    y = torch.nn.functional.batch_norm(torch.from_numpy(PICTURE), moved, spread, *weights, True, 0.3, 1e-5)
    own, biased = PICTURE.mean((0, 2, 3)), PICTURE.var((0, 2, 3))
    expected = [y.numpy(), moved.numpy(), 0.7 * variance + 0.3 * biased]
    for opset, count, options in ((15, 3, {"training_mode": 1}), (9, 5, {})):
        found = computed("BatchNormalization", opset, [PICTURE, *MOMENTS], count, momentum=0.7, **options)
        for one, truth in zip(found, [*expected, own, biased], strict=False):
            np.testing.assert_allclose(one, truth, rtol=1e-4, atol=1e-5)
        assert len(found) == count


@pytest.mark.parametrize(
    "operator, opset", [("LayerNormalization", 17), ("RMSNormalization", 23), ("InstanceNormalization", 6),
                        ("ReduceL2", 18), ("LpNormalization", 1)],
)  # fmt: skip
def test_half_precision_is_squared_in_single(operator, opset):
    """The square of 300 is infinite in half precision."""
    x = (floats(2, 4, 64) * 300).astype(np.float16)
    width = {"InstanceNormalization": 4, "ReduceL2": 0, "LpNormalization": 0}.get(operator, 64)
    rest = [np.ones(width, np.float16)] if width else []
    rest += [np.zeros(width, np.float16)] if operator == "InstanceNormalization" else []
    rest += [ints(-1)] if operator == "ReduceL2" else []
    (half,) = computed(operator, opset, [x, *rest])
    wide = [x.astype(np.float32), *(r.astype(np.float32) if r.dtype == np.float16 else r for r in rest)]
    (full,) = computed(operator, opset, wide)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, full, rtol=2e-3, atol=1e-3)


def test_moments_of_half_precision_are_single():
    y, mean, inverse = computed(
        "LayerNormalization", 17, [PICTURE.astype(np.float16), np.ones(8, np.float16)], 3
    )
    assert (y.dtype, mean.dtype, inverse.dtype) == (np.float16, np.float32, np.float32)


def test_negative_powers_of_integers_are_rounded_towards_zero():
    assert computed("Pow", 15, [ints(2, -1, 1), ints(-1, -3, -2)])[0].tolist() == [0, -1, 1]


def test_an_even_neighbourhood_of_channels_reaches_further_up():
    """As the standard says; ONNX Runtime takes odd sizes only, and torch reaches further down."""
    x = floats(1, 5, 1, 1)
    (y,) = computed("LRN", 13, [x], size=2, alpha=1.0, beta=1.0, bias=1.0)
    squares = x.ravel() ** 2
    np.testing.assert_allclose(
        y.ravel(), x.ravel() / (1 + (squares + np.append(squares[1:], 0)) / 2), rtol=1e-5
    )


def test_same_padding_of_a_short_transposed_convolution():
    """15 = 5 * 3 positions, as the standard says; ONNX Runtime gives the 14 that the kernel reaches."""
    (y,) = computed(
        "ConvTranspose", 11, [floats(1, 1, 5), floats(1, 1, 2)], strides=[3], auto_pad="SAME_UPPER"
    )
    assert y.shape == (1, 1, 15) and y[0, 0, -1] == 0


def test_unsaturated_float8_overflows_to_what_the_standard_has():
    """ONNX Runtime turns -480 into -448 and 61440 into NaN."""
    x = single(448, 464.01, -480, 57344, 61440, -INF)
    for to, expected in (
        (TensorProto.FLOAT8E4M3FN, [448, NAN, NAN, NAN, NAN, NAN]),
        (TensorProto.FLOAT8E5M2, [448, 448, -512, 57344, INF, -INF]),
    ):
        nodes = [
            helper.make_node("Cast", ["x"], ["f"], to=to, saturate=0),
            helper.make_node("Cast", ["f"], ["y"], to=TensorProto.FLOAT),
        ]
        proto = m.proto(nodes, [m.info("x", [6])], [onnx.ValueInfoProto(name="y")], opset=19, ir_version=9)
        np.testing.assert_array_equal(Reference(unread(proto)).run({"x": x})["y"], expected)


def test_probit_is_the_inverse_of_the_normal_distribution():
    found = _transformed(np.array([[0.1, 0.5], [0, 1], [-1, 0.975]]), 4)
    expected = [[NormalDist().inv_cdf(0.1), 0], [-INF, INF], [NAN, 1.959964]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
