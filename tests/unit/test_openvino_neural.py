"""Convolution, pooling, pictures, recurrent layers and quantisation: each against OpenVINO itself."""

import itertools

import numpy as np
import pytest
from openvino import opset1, opset8, opset10, opset11, opset13, opset14
from openvino_oracle import answers, compare, parameters_for, saved

from raceline.convert.readers import openvino as reader
from raceline.ir import run_reference

RNG = np.random.default_rng(1)
o = opset13
X = RNG.normal(size=(2, 4, 11, 9)).astype(np.float32)


def f(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def c(value, dtype=np.int64):
    return o.constant(np.array(value, dtype))


WINDOWS = [
    ([1, 1], [0, 0], [0, 0], [1, 1], "explicit"),
    ([2, 3], [1, 0], [2, 1], [1, 1], "explicit"),
    ([1, 1], [2, 2], [2, 2], [2, 2], "explicit"),
    ([2, 2], [0, 0], [0, 0], [1, 1], "same_upper"),
    ([3, 2], [0, 0], [0, 0], [2, 1], "same_lower"),
    ([1, 1], [1, 1], [1, 1], [1, 1], "valid"),
]


@pytest.mark.parametrize("strides, begin, end, dilations, auto", WINDOWS)
@pytest.mark.parametrize("opened", [False, True])
def test_convolutions(tmp_path, strides, begin, end, dilations, auto, opened):
    w, g = f(6, 4, 3, 3), f(2, 3, 2, 3, 3)
    compare(tmp_path, lambda x: o.convolution(x, w, strides, begin, end, dilations, auto), X, opened=opened)
    compare(tmp_path, lambda x: o.group_convolution(x, g, strides, begin, end, dilations, auto), X)


@pytest.mark.parametrize("strides, begin, end, dilations, auto", WINDOWS)
@pytest.mark.parametrize("extra", [0, 1])
def test_transposed_convolutions(tmp_path, strides, begin, end, dilations, auto, extra):
    extra = [min(extra, s - 1) for s in strides]
    w, g = f(4, 6, 3, 3), f(2, 2, 3, 3, 3)
    arguments = (strides, begin, end, dilations, auto, extra)
    compare(tmp_path, lambda x: o.convolution_backprop_data(x, w, strides, None, *arguments[1:]), X)
    compare(tmp_path, lambda x: o.group_convolution_backprop_data(x, g, strides, None, *arguments[1:]), X)


@pytest.mark.parametrize("auto", ["explicit", "same_upper", "same_lower"])
def test_transposed_convolutions_to_a_shape(tmp_path, auto):
    w = f(4, 6, 3, 3)
    compare(
        tmp_path,
        lambda x: o.convolution_backprop_data(
            x, w, [2, 2], c([22, 18]), [1, 1], [1, 1], [1, 1], auto, [0, 0]
        ),
        X,
    )


def test_other_dimensions(tmp_path):
    w1, w3 = f(5, 4, 3), f(5, 4, 2, 2, 2)
    compare(tmp_path, lambda x: o.convolution(x, w1, [2], [1], [1], [1]), f(2, 4, 12))
    compare(tmp_path, lambda x: o.convolution(x, w3, [1] * 3, [0] * 3, [1] * 3, [1] * 3), f(1, 4, 5, 6, 7))


def test_deformable_convolution(tmp_path):
    w = f(3, 2, 3, 3)
    offsets, mask = f(1, 18, 4, 3) * 0.3, np.abs(f(1, 9, 4, 3))
    compare(
        tmp_path,
        lambda x, d, m: opset8.deformable_convolution(
            x, d, w, [1, 1], [0, 0], [0, 0], [1, 1], m, "EXPLICIT", 1, 1, True
        ),
        f(1, 2, 6, 5), offsets, mask, tolerance=1e-4,
    )  # fmt: skip


POOLS = [
    ([2, 2], [0, 0], [0, 0], [2, 2], "explicit"),
    ([2, 3], [1, 1], [1, 1], [3, 3], "explicit"),
    ([2, 2], [0, 1], [1, 0], [3, 2], "explicit"),
    ([2, 2], [0, 0], [0, 0], [3, 3], "same_upper"),
    ([2, 2], [0, 0], [0, 0], [3, 3], "same_lower"),
    ([1, 2], [0, 0], [0, 0], [3, 3], "valid"),
]


EXPLICIT = [pool for pool in POOLS if pool[-1] == "explicit"]


@pytest.mark.parametrize(
    "strides, begin, end, kernel, auto, rounding",
    [(*pool, "floor") for pool in POOLS]
    + [(*pool, rounding) for pool in EXPLICIT for rounding in ("ceil", "ceil_torch")],
)  # where the padding is automatic, rounding does not matter
def test_pools(tmp_path, strides, begin, end, kernel, auto, rounding):
    ops = opset14 if rounding == "ceil_torch" else opset1
    for exclude in (True, False):
        compare(
            tmp_path,
            lambda x, e=exclude: ops.avg_pool(x, strides, begin, end, kernel, e, rounding, auto),
            X,
        )
    if rounding != "ceil_torch":
        compare(tmp_path, lambda x: opset1.max_pool(x, strides, begin, end, kernel, rounding, auto), X)
    both = opset14 if rounding == "ceil_torch" else opset8
    for axis in (0, 2):
        compare(
            tmp_path,
            lambda x, a=axis: both.max_pool(
                x, strides, [1, 1], begin, end, kernel, rounding, auto, "i32", a
            ).outputs(),
            X,
        )


def test_dilated_max_pool(tmp_path):
    compare(tmp_path, lambda x: o.max_pool(x, [1, 2], [2, 1], [1, 0], [0, 1], [3, 2]).output(0), X)


@pytest.mark.parametrize("shape", [[1, 1], [4, 3], [11, 2], [5, 9]])
def test_adaptive_pools(tmp_path, shape):
    compare(tmp_path, lambda x: o.adaptive_avg_pool(x, c(shape)), X)
    compare(tmp_path, lambda x: o.adaptive_max_pool(x, c(shape), "i32").output(0), X)


PLACES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]


@pytest.mark.parametrize("size", [[22, 18], [7, 5], [11, 20], [1, 3]])
@pytest.mark.parametrize(
    "mode, place",
    [
        *itertools.product(["nearest", "linear_onnx", "linear", "cubic"], PLACES),
        ("nearest", "tf_half_pixel_for_nn"),  # refused for the others
    ],
)
def test_resizing(tmp_path, mode, place, size):
    rounding = "floor" if place == "tf_half_pixel_for_nn" else "round_prefer_floor"
    settings = (mode, "sizes", [0, 0], [0, 0], place, rounding)
    scales = c([1.0, 1.0], np.float32)
    compare(tmp_path, lambda x: opset10.interpolate(x, c(size), scales, *settings, False, -0.75, c([2, 3])), X,
            tolerance=1e-4, ort=True)  # fmt: skip
    compare(
        tmp_path,
        lambda x: opset11.interpolate(x, c(size), *settings, False, -0.75, c([2, 3])),
        X,
        tolerance=1e-4,
        ort=True,
    )


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"])
@pytest.mark.parametrize("place", PLACES[:4])
@pytest.mark.parametrize("size", [[22, 27], [4, 3]])
def test_nearest(tmp_path, rounding, place, size):
    settings = ("nearest", "sizes", [0, 0], [0, 0], place, rounding)
    compare(tmp_path, lambda x: opset11.interpolate(x, c(size), *settings, False, -0.75, c([2, 3])), X)


@pytest.mark.parametrize("mode", ["nearest", "linear_onnx", "cubic"])
@pytest.mark.parametrize("scale", [[2.0, 2.0], [0.55, 1.3]])
def test_resizing_by_scales(tmp_path, mode, scale):
    settings = (mode, "scales", [0, 0], [0, 0], "half_pixel", "round_prefer_floor")
    scales = c(scale, np.float32)
    sizes = c([int(11 * scale[0]), int(9 * scale[1])])
    compare(
        tmp_path,
        lambda x: opset10.interpolate(x, sizes, scales, *settings, False, -0.75, c([2, 3])),
        X,
        tolerance=1e-4,
        ort=True,
    )
    for opened in (False, True):
        compare(tmp_path, lambda x: opset11.interpolate(x, scales, *settings, False, -0.75, c([2, 3])), X,
                tolerance=1e-4, opened=opened, ort=True)  # fmt: skip


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_sampling(tmp_path, align, mode, padding):
    grid = (RNG.uniform(-1.3, 1.3, size=(2, 5, 6, 2))).astype(np.float32)
    # onnx's reference mistakes the border of bicubic samples.
    settings = {"align_corners": align, "mode": mode, "padding_mode": padding}
    compare(tmp_path, lambda x, g: o.grid_sample(x, g, settings), X, grid, tolerance=1e-4, ort=True)


@pytest.mark.parametrize("aligned", ["asymmetric", "half_pixel", "half_pixel_for_nn"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_regions(tmp_path, aligned, ratio):
    rois = np.array([[0, 0, 8, 8], [2.3, 1.1, 6.5, 9.7], [4, 4, 15, 14]], np.float32)
    batch = np.array([0, 1, 1], np.int64)
    compare(tmp_path, lambda x, r, i: o.roi_align(x, r, i, 3, 2, ratio, 0.5, "avg", aligned), X, rois, batch)


@pytest.mark.parametrize("softmax", [True, False])
def test_yolo_regions(tmp_path, softmax):
    x = f(1, 3 * 8, 5, 4)
    anchors = [10.0, 14.0, 23.0, 27.0, 37.0, 58.0]
    compare(tmp_path, lambda v: o.region_yolo(v, 4, 3, 3, softmax, [0, 1, 2], 1, 3, anchors), x)


def test_yolo_reorganisation(tmp_path):
    compare(tmp_path, lambda v: o.reorg_yolo(v, [2, 2]), f(1, 8, 6, 4))


def test_clustered_anchors(tmp_path):
    def build(x):
        settings = {
            "width": [86.0, 13.0], "height": [44.0, 10.0], "clip": True, "step": 16.0, "offset": 0.5,
            "variance": [0.1, 0.1, 0.2, 0.2],
        }  # fmt: skip
        return [o.prior_box_clustered(c([4, 5]), c([64, 80]), settings), o.relu(x)]

    compare(tmp_path, build, X)


@pytest.mark.parametrize("order", [True, False])
def test_anchors(tmp_path, order):
    def build(x):
        settings = {
            "min_size": [16.0, 30.0], "max_size": [38.0, 60.0], "aspect_ratio": [2.0], "flip": True,
            "clip": False, "step": 16.0, "offset": 0.5, "variance": [0.1, 0.1, 0.2, 0.2],
            "min_max_aspect_ratios_order": order,
        }  # fmt: skip
        return [opset8.prior_box(c([4, 5]), c([64, 80]), settings), o.relu(x)]

    compare(tmp_path, build, X)


BATCH, STEPS, WIDTH, UNITS = 3, 5, 4, 6


def recurrent(blocks, directions, bias_blocks=None):
    rows = blocks * UNITS
    return (
        f(directions, rows, WIDTH), f(directions, rows, UNITS), f(directions, (bias_blocks or blocks) * UNITS)
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 2, 3]])
def test_sequences(tmp_path, direction, lengths):
    count = 2 if direction == "bidirectional" else 1
    x, h, s = f(BATCH, STEPS, WIDTH), f(BATCH, count, UNITS), f(BATCH, count, UNITS)
    w, r, b = recurrent(4, count)
    compare(
        tmp_path,
        lambda *v: o.lstm_sequence(*v, c(lengths, np.int32), w, r, b, UNITS, direction).outputs(),
        x, h, s, tolerance=1e-4,
    )  # fmt: skip
    for linear in (False, True):
        w, r, b = recurrent(3, count, 4 if linear else 3)
        compare(
            tmp_path,
            lambda *v, w=w, r=r, b=b, n=linear: o.gru_sequence(
                *v, c(lengths, np.int32), w, r, b, UNITS, direction, linear_before_reset=n
            ).outputs(),
            x, h, tolerance=1e-4,
        )  # fmt: skip
    w, r, b = recurrent(1, count)
    compare(
        tmp_path,
        lambda *v: o.rnn_sequence(*v, c(lengths, np.int32), w, r, b, UNITS, direction).outputs(),
        x, h, tolerance=1e-4,
    )  # fmt: skip


def test_cells(tmp_path):
    x, h, s = f(BATCH, WIDTH), f(BATCH, UNITS), f(BATCH, UNITS)
    w, r, b = (item[0] for item in recurrent(4, 1))
    compare(tmp_path, lambda *v: o.lstm_cell(*v, w, r, b, UNITS).outputs(), x, h, s, tolerance=1e-4)
    for linear in (False, True):
        w, r, b = (item[0] for item in recurrent(3, 1, 4 if linear else 3))
        compare(
            tmp_path,
            lambda *v, w=w, r=r, b=b, n=linear: o.gru_cell(*v, w, r, b, UNITS, linear_before_reset=n),
            x, h, tolerance=1e-4,
        )  # fmt: skip
    w, r, b = (item[0] for item in recurrent(1, 1))
    compare(tmp_path, lambda *v: o.rnn_cell(*v, w, r, b, UNITS, ["relu"], [], []), x, h, tolerance=1e-4)


def fake(x, ends, levels):
    return o.fake_quantize(x, *(o.constant(np.array(e, np.float32)) for e in ends), levels)


RANGES = [
    ([-1.28, 1.27, -1.28, 1.27], 256, ["QuantizeLinear", "DequantizeLinear"]),
    ([-1.27, 1.27, -1.27, 1.27], 255, ["Max", "Min", "QuantizeLinear", "DequantizeLinear"]),
    ([0.0, 2.55, 0.0, 2.55], 256, ["QuantizeLinear", "DequantizeLinear"]),
    ([0.0, 2.55, 0.0, 5.1], 256, ["QuantizeLinear", "DequantizeLinear"]),
    ([-1.0, 2.0, -0.5, 1.7], 16, None),
    ([0.5, 2.0, 0.5, 2.0], 256, None),
]


def near(found, expected, step):
    """Equal but for halves, which two correct roundings may send to different levels."""
    gap = np.abs(found - expected)
    assert gap.max() <= step * 1.001 and (gap > step * 1e-3).mean() < 0.01


@pytest.mark.parametrize("ends, levels, kinds", RANGES)
def test_fake_quantisation(tmp_path, ends, levels, kinds):
    parameters = parameters_for([X])
    path = saved(tmp_path, [fake(parameters[0], ends, levels)], parameters)
    model = reader.read(path)
    if kinds:
        assert [node.op_type for node in model.program.graph] == kinds
    (found,) = run_reference(model, {"in0": X}).values()
    near(found, answers(path, [X])[0], (ends[3] - ends[2]) / (levels - 1))


def test_fake_quantised_weights_are_whole_numbers(tmp_path):
    weight = f(6, 4, 3, 3)
    high = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    ends = [-high, high, -high, high]

    def build(x):
        seen = fake(x, [-2.56, 2.54, -2.56, 2.54], 256)
        return o.convolution(seen, fake(o.constant(weight), ends, 255), [1, 1], [1, 1], [1, 1], [1, 1])

    parameters = parameters_for([X])
    path = saved(tmp_path, [build(*parameters)], parameters)
    model = reader.read(path)
    kinds = [node.op_type for node in model.program.graph]
    assert kinds.count("DequantizeLinear") == 2 and kinds.count("QuantizeLinear") == 1
    assert {t.dtype.name for t in model.program.graph.initializers.values() if t.const_value.size == 216} == {
        "INT8"
    }
    (found,) = run_reference(model, {"in0": X}).values()
    near(found, answers(path, [X])[0], 0.1)


@pytest.mark.parametrize("dtype", ["i8", "u8", "i4", "u4"])
@pytest.mark.parametrize("grouping", ["tensor", "channel", "group"])
@pytest.mark.parametrize("zero", [True, False])
def test_weights_in_few_bits(tmp_path, dtype, grouping, zero):
    import openvino as ov

    signed = dtype[0] == "i"
    bits = int(dtype[1])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    shape = (6, 4, 8) if grouping == "group" else (6, 32)
    whole = RNG.integers(low, high, shape).astype(np.int8 if signed else np.uint8)
    sizes = {"tensor": (1, 1), "channel": (6, 1), "group": (6, 4, 1)}[grouping]
    scale = RNG.uniform(0.1, 1, sizes).astype(np.float16)
    point = RNG.integers(low, high, sizes).astype(whole.dtype)

    def packed(array):
        kinds = {"i4": ov.Type.i4, "u4": ov.Type.u4}
        return (
            ov.op.Constant(kinds[dtype], ov.Shape(list(array.shape)), array.reshape(-1).tolist())
            if bits == 4
            else o.constant(array)
        )

    def build(x):
        value = o.convert(packed(whole), "f16")
        if zero:
            value = o.subtract(value, o.convert(packed(point), "f16"))
        value = o.convert(o.multiply(value, o.constant(scale)), "f32")
        if grouping == "group":
            value = o.reshape(value, c([6, 32]), False)
        return o.matmul(x, value, False, True)

    model = compare(tmp_path, build, f(3, 32), tolerance=2e-3)  # OpenVINO rounds the products to 16 bits
    assert "DequantizeLinear" in [node.op_type for node in model.program.graph]


@pytest.mark.parametrize("fp16", [True, False])
def test_weights_in_16_bits(tmp_path, fp16):
    w = f(6, 4, 3, 3)
    compare(tmp_path, lambda x: o.convolution(x, w, [1, 1], [1, 1], [1, 1], [1, 1]), X, fp16=fp16)


def test_an_empty_range_of_a_channel_without_weights(tmp_path):
    """OpenVINO folds it to zeros, as it is defined; computed in a run, its CPU plug-in makes NaN of it."""
    ends = np.float32([[-1], [0]]), np.float32([[1], [0]])
    weights = np.float32([[-1, -0.2, 0, 0.3, 1], [0, 0, 0, 0, 0]])
    compare(tmp_path, lambda x: o.add(x, o.fake_quantize(weights, *ends, *ends, 16)), f(2, 5))
