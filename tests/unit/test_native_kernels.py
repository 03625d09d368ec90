"""Every kernel for nets computes what torch computes in double precision, on every instruction set of this CPU."""

import itertools
import math

import numpy as np
import pytest
import torch

from raceline import _native

KERNELS = _native.net_kernels()
NONE, RELU, SILU = (0, 0.0, 0.0), (1, 0.0, math.inf), (3, 0.0, 0.0)
ARENA, INPUT, OUTPUT = range(3)


def stride_of(shape):
    n, c, h, w = shape
    return -(-c // 16) * 16 * h * w


class Built:
    """A net around one step, its values one after another in the arena."""

    def __init__(self, kernels, shapes, threads=1, streams=1):
        sizes = [shape[0] * stride_of(shape) for shape in shapes]
        self.net = _native.Net(threads, streams, kernels, sum(sizes))
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.values = [
            self.net.value(ARENA, start, shape, stride_of(shape))
            for start, shape in zip(starts, shapes, strict=True)
        ]

    def pack(self, place, shape):
        self.net.pack(self.net.value(INPUT, 0, shape, 0), self.values[place])

    def unpack(self, place, shape):
        self.net.unpack(self.values[place], self.net.value(OUTPUT, 0, shape, 0))
        self.shape = shape

    def run(self, *inputs):
        output = np.full(self.shape, 7.0, np.float32)
        self.net.run(list(inputs), [output])
        return output


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def near(found, expected, tolerance=3e-6):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))


# (input, output channels, kernel, strides, dilations, (top, left, bottom, right), groups)
CONVOLUTIONS = {
    "3x3": ((2, 20, 13, 9), 35, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "3x3, many": ((1, 64, 10, 21), 80, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "3x3, no padding": ((1, 16, 5, 7), 16, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "one pixel padded": ((1, 33, 1, 1), 17, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "pads apart": ((1, 16, 6, 6), 16, (3, 3), (1, 1), (1, 1), (2, 0, 1, 3), 1),
    "a column": ((2, 35, 40, 1), 20, (5, 1), (2, 1), (3, 1), (4, 0, 2, 0), 1),
    "a column, depthwise": ((1, 33, 40, 1), 33, (3, 1), (1, 1), (1, 1), (1, 0, 1, 0), 33),
    "1x1": ((1, 70, 7, 11), 100, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "1x1 of single pixels": ((5, 70, 1, 1), 33, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "1x1, stride 2": ((2, 24, 9, 8), 40, (1, 1), (2, 2), (1, 1), (0, 0, 0, 0), 1),
    "stride 2": ((1, 24, 15, 14), 40, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 1),
    "strides apart": ((1, 17, 12, 13), 16, (5, 2), (3, 2), (1, 1), (2, 1, 2, 0), 1),
    "dilated": ((1, 18, 17, 16), 16, (3, 3), (1, 2), (2, 3), (2, 3, 2, 3), 1),
    "window larger than the picture": ((1, 16, 2, 3), 16, (7, 7), (1, 1), (1, 1), (3, 3, 3, 3), 1),
    "one channel": ((1, 1, 9, 9), 1, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "groups of whole blocks": ((1, 32, 9, 6), 64, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 2),
    "groups across blocks": ((2, 30, 9, 6), 20, (3, 3), (2, 1), (1, 1), (1, 1, 1, 1), 10),
    "groups of four": ((1, 64, 6, 6), 64, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 16),
    "two for each channel": ((1, 20, 6, 6), 40, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 20),
    "depthwise 3x3": ((2, 35, 9, 19), 35, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), 35),
    "depthwise 3x3, stride 2": ((1, 16, 9, 24), 16, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), 16),
    "depthwise 3x3, stride 2, pads apart": ((1, 16, 10, 10), 16, (3, 3), (2, 2), (1, 1), (0, 0, 1, 1), 16),
    "depthwise 5x5": ((1, 24, 7, 23), 24, (5, 5), (1, 1), (1, 1), (2, 2, 2, 2), 24),
    "depthwise 5x5, stride 2": ((1, 24, 8, 22), 24, (5, 5), (2, 2), (1, 1), (2, 2, 2, 2), 24),
    "depthwise 7x1": ((1, 16, 8, 5), 16, (7, 1), (1, 1), (1, 1), (3, 0, 3, 0), 16),
    "depthwise, dilated": ((1, 16, 9, 9), 16, (3, 3), (1, 1), (2, 2), (2, 2, 2, 2), 16),
    "depthwise of a narrow picture": ((1, 16, 3, 2), 16, (5, 5), (1, 1), (1, 1), (2, 2, 2, 2), 16),
}


def in_double(x, weights, bias, case):
    _, _, _, strides, dilations, (top, left, bottom, right), groups = case
    padded = torch.nn.functional.pad(torch.tensor(x).double(), (left, right, top, bottom))
    weights, bias = (torch.tensor(a).double() for a in (weights, bias))
    return torch.nn.functional.conv2d(padded, weights, bias, strides, 0, dilations, groups).numpy()


def operands(case):
    shape, channels, kernel, *_, groups = case
    weights = random((channels, shape[1] // groups, *kernel), 1) / np.float32(
        math.sqrt(math.prod(kernel) * shape[1])
    )
    return random(shape), weights, random(channels, 2)


def convolution(
    kernels, case, out_shape, weights, bias, choice, epilogue, threads=1, winograd=True, plain=False
):
    """(net, name of the method): a convolution with an epilogue of "nothing", "relu" or "silu, sum, relu"."""
    shape, _, _, strides, dilations, pads, groups = case
    built = Built(kernels, [shape, out_shape, out_shape], threads)
    x = built.values[0]
    if plain:
        x = built.net.value(INPUT, 0, shape, 0)
    else:
        built.pack(0, shape)
    first, residual, second = {
        "nothing": (NONE, -1, NONE), "relu": (RELU, -1, NONE), "sum, relu": (NONE, built.values[2], RELU),
        "silu, sum, relu": (SILU, built.values[2], RELU),
    }[epilogue]  # fmt: skip
    if residual >= 0:
        built.pack(2, out_shape)
    built.net.convolution(
        x, built.values[1], weights, bias, strides, dilations, pads[:2], groups, first, residual, second
    )
    built.unpack(1, out_shape)
    built.net.prepare(0, winograd, choice)
    names = [name for name in built.net.step_names() if name.startswith(("direct", "winograd", "depthwise"))]
    return built, names[0]


def finished(sums, residual, epilogue):
    if "silu" in epilogue:
        sums = sums / (1 + np.exp(-sums))
    if "sum" in epilogue:
        sums = sums + residual
    return np.maximum(sums, 0) if "relu" in epilogue else sums


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_method_of_every_convolution(name, kernels):
    case = CONVOLUTIONS[name]
    x, weights, bias = operands(case)
    sums = in_double(x, weights, bias, case)
    residual = random(sums.shape, 3)
    seen = set()
    for choice in range(40):
        epilogue = ("nothing", "relu", "sum, relu", "silu, sum, relu")[choice % 4]
        built, method = convolution(kernels, case, sums.shape, weights, bias, choice, epilogue)
        if (method, epilogue) in seen:
            break
        seen.add((method, epilogue))
        inputs = [x, residual] if "sum" in epilogue else [x]
        near(built.run(*inputs), finished(sums, residual, epilogue))
    kinds = {method.split()[0] for method, _ in seen}
    groups, channels = case[-1], case[0][1]
    if groups == channels == case[1] and groups > 1:
        assert kinds == {"depthwise"}
    elif case[2:5] == ((3, 3), (1, 1), (1, 1)) and groups == 1 and channels >= 16:
        assert kinds == {"winograd2", "winograd4", "direct"}
    else:
        assert kinds == {"direct"}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ["3x3", "one channel", "strides apart", "1x1", "dilated"])
def test_pictures_that_are_read_as_they_come(name, kernels):
    case = CONVOLUTIONS[name]
    x, weights, bias = operands(case)
    sums = in_double(x, weights, bias, case)
    for choice in range(8):
        built, _ = convolution(kernels, case, sums.shape, weights, bias, choice, "relu", plain=True)
        near(built.run(x), np.maximum(sums, 0))


@pytest.mark.parametrize(
    "name", ["3x3, many", "groups across blocks", "depthwise 5x5", "1x1 of single pixels"]
)
def test_threads_change_no_bit(name):
    case = CONVOLUTIONS[name]
    x, weights, bias = operands(case)
    shape = in_double(x, weights, bias, case).shape
    for choice in range(0, 20, 3):
        runs = []
        for threads in (1, 2, 3):
            built, _ = convolution("", case, shape, weights, bias, choice, "nothing", threads)
            runs += [built.run(x), built.run(x)]
        assert all(np.array_equal(runs[0], run) for run in runs)


def test_more_threads_than_cores_miss_no_part_and_do_none_twice():
    """Helpers come late, when the next step is under way: rounds of few and of many parts follow each other."""
    shape = (1, 64, 9, 8)
    x, weights = random(shape), random((64, 64, 1, 1), 1) / np.float32(8)
    alone, many = (Built("", [shape] * 3, threads) for threads in (1, 12))
    for built in (alone, many):
        built.pack(0, shape)
        for i in range(12):  # into what the step before has read
            source, target = built.values[i % 2], built.values[1 - i % 2]
            built.net.convolution(
                source, target, weights, None, (1, 1), (1, 1), (0, 0), 1, NONE, built.values[2], RELU
            )
            built.net.apply(target, built.values[2], (7, 0.0, 0.0))
        built.unpack(2, shape)
        built.net.prepare(0, True)
    for _ in range(60):  # values[2] keeps what the last run left, in both
        assert np.array_equal(many.run(x), alone.run(x))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_reaches_what_it_should(value, kernels):
    """Directly, exactly that; by Winograd, that and no more than the tiles around it."""
    case = CONVOLUTIONS["3x3, many"]
    x, weights, bias = operands(case)
    x[0, 5, 4, 10] = value
    expected = in_double(x, weights, bias, case)
    wrong = ~np.isfinite(expected)
    assert 0 < wrong.sum() < wrong.size / 10
    for winograd, choice in ((False, 0), (True, 0), (True, 5)):
        built, _ = convolution(
            kernels, case, expected.shape, weights, bias, choice, "nothing", winograd=winograd
        )
        found = built.run(x)
        assert not np.isfinite(found[wrong]).any()
        far = np.ones(expected.shape, bool)
        far[:, :, 0:12, 4:18] = not winograd
        near(found[far & ~wrong], expected[far & ~wrong])
        if not winograd:
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


ACTIVATIONS = {
    "clip": ((1, -0.5, 6.0), lambda x: x.clip(-0.5, 6)),
    "sigmoid": ((2, 0.0, 0.0), torch.sigmoid),
    "silu": (SILU, torch.nn.functional.silu),
    "hard_sigmoid": ((4, 0.2, 0.5), lambda x: (x * 0.2 + 0.5).clip(0, 1)),
    "hard_swish": ((5, 0.0, 0.0), torch.nn.functional.hardswish),
    "leaky_relu": ((6, 0.1, 0.0), lambda x: torch.nn.functional.leaky_relu(x, 0.1)),
    "tanh": ((7, 0.0, 0.0), torch.tanh),
    "linear": ((8, -1.5, 0.25), lambda x: x * -1.5 + 0.25),
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, kernels):
    function, truth = ACTIVATIONS[name]
    x = np.concatenate(
        [random(4000) * 3, random(200) * 100, np.float32([0, -0.0, 1e-30, -1e-30, 88, -88, 1e30, -1e30])]
    )
    x = np.resize(x, (2, 20, 11, 10)).astype(np.float32)
    built = Built(kernels, [x.shape, x.shape])
    built.pack(0, x.shape)
    built.net.apply(*built.values, function)
    built.unpack(1, x.shape)
    built.net.prepare(0, True)
    expected = truth(torch.tensor(x).double()).numpy()
    atol = 1e-6 * function[2] if name == "linear" else 2e-7  # near the root digits are lost to the sum
    np.testing.assert_allclose(built.run(x), expected, rtol=1e-6, atol=atol)
    x[0, 3, 2, 1] = math.nan
    assert np.isnan(built.run(x)[0, 3, 2, 1]) and np.isnan(built.run(x)).sum() == 1


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("op, swapped, pixel", [*itertools.product(range(4), (False, True), (False, True))])
def test_element_by_element(op, swapped, pixel, kernels):
    shape, other = (2, 21, 5, 7), (2, 21, 1, 1) if pixel else (2, 21, 5, 7)
    x, z = random(shape), random(other, 1)
    built = Built(kernels, [shape, other, shape])
    built.pack(0, shape)
    built.pack(1, other)
    built.net.binary(op, built.values[0], built.values[1], swapped, built.values[2], RELU)
    built.unpack(2, shape)
    built.net.prepare(0, True)
    left, right = (z, x) if swapped else (x, z)
    expected = np.maximum([np.add, np.subtract, np.multiply, np.divide][op](left, right), 0)
    np.testing.assert_array_equal(built.run(x, z), np.broadcast_to(expected, shape))


@pytest.mark.parametrize("kernels", KERNELS)
def test_scales_averages_and_larger_pictures(kernels):
    shape = (2, 35, 6, 9)
    x, scale, shift = random(shape), random(35, 1), random(35, 2)

    def run(out_shape, add):
        built = Built(kernels, [shape, out_shape])
        built.pack(0, shape)
        add(built.net, *built.values)
        built.unpack(1, out_shape)
        built.net.prepare(0, True)
        return built.run(x)

    scaled = run(shape, lambda net, p, q: net.affine(p, q, scale, shift, RELU))
    near(scaled, np.maximum(x * scale[:, None, None] + shift[:, None, None], 0))
    mean = run((2, 35, 1, 1), lambda net, p, q: net.average(p, q))
    near(mean, x.astype(np.float64).mean((2, 3), keepdims=True))
    larger = run((2, 35, 12, 27), lambda net, p, q: net.upsample(p, q))
    np.testing.assert_array_equal(larger, x.repeat(2, 2).repeat(3, 3))
    for start, channels in ((0, 35), (16, 16), (16, 19), (3, 20)):
        part = run((2, channels, 6, 9), lambda net, p, q, s=start, c=channels: net.copy(p, s, q, 0, c))
        np.testing.assert_array_equal(part, x[:, start : start + channels])


@pytest.mark.parametrize("kernels", KERNELS)
def test_copies_into_the_middle(kernels):
    shape, wide = (2, 40, 5, 4), (2, 75, 5, 4)
    x, y = random(shape), random(wide, 1)
    for start, to, channels in ((0, 24, 24), (3, 20, 33), (8, 0, 32), (16, 48, 16), (5, 74, 1)):
        built = Built(kernels, [shape, wide])
        built.pack(0, shape)
        built.pack(1, wide)
        built.net.copy(built.values[0], start, built.values[1], to, channels)
        built.unpack(1, wide)
        built.net.prepare(0, True)
        expected = y.copy()
        expected[:, to : to + channels] = x[:, start : start + channels]
        np.testing.assert_array_equal(built.run(x, y), expected)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("channels", [1, 3, 8, 16, 21])
def test_into_blocks_and_back(channels, kernels):
    """For few pixels, many, and numbers of them that are no multiple of a register."""
    for pixels in (1, 3, 4, 7, 8, 15, 16, 17, 31, 100):
        x = random((2, channels, 1, pixels))
        x[0, 0, 0, 0] = math.nan
        built = Built(kernels, [x.shape])
        built.pack(0, x.shape)
        built.unpack(0, x.shape)
        built.net.prepare(0, True)
        np.testing.assert_array_equal(built.run(x), x)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("kernel, stride, pad", [(3, 2, 1), (2, 2, 0), (5, 1, 2), (3, 1, 0)])
def test_pools(kernel, stride, pad, kernels):
    shape = (2, 19, 11, 12)
    x = random(shape)
    x[0, 2, 4, 4] = math.nan
    functional = torch.nn.functional
    for is_max, counts in ((True, False), (False, False), (False, True)):
        if is_max:
            expected = functional.max_pool2d(torch.tensor(x), kernel, stride, pad)
        else:
            expected = functional.avg_pool2d(torch.tensor(x), kernel, stride, pad, count_include_pad=counts)
        built = Built(kernels, [shape, tuple(expected.shape)])
        built.pack(0, shape)
        built.net.pool(*built.values, is_max, counts, (kernel, kernel), (stride, stride), (1, 1), (pad,) * 4)
        built.unpack(1, tuple(expected.shape))
        built.net.prepare(0, True)
        np.testing.assert_allclose(built.run(x), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused():
    net = _native.Net(1, 1, "", 4096)
    x = net.value(ARENA, 0, (1, 16, 4, 4), 256)
    weights = np.zeros((16, 16, 3, 3), np.float32)

    def conv(y, weights=weights, strides=(1, 1), pads=(1, 1), groups=1, residual=-1, first=NONE):
        net.convolution(x, y, weights, None, strides, (1, 1), pads, groups, first, residual, NONE)

    for offset, shape, stride in [
        (3841, (1, 16, 4, 4), 256), (0, (17, 16, 4, 4), 256), (0, (2, 16, 4, 4), 255), (-1, (1, 1, 1, 1), 16),
        (0, (1, 17, 4, 4), 256), (0, (1, 16, 0, 4), 256), (0, (1 << 40, 1, 1, 1), 16), (0, (2, 1, 1, 1), 1 << 62),
        (0, (1, 1 << 30, 1 << 30, 1 << 30), 1 << 62), (1 << 62, (2, 16, 4, 4), 1 << 62),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="value"):
            net.value(ARENA, offset, shape, stride)
    for bad in (-1, 7, 1 << 30):
        with pytest.raises(ValueError, match="no such value"):
            conv(bad)
    wrong = [
        dict(weights=np.zeros((16, 17, 3, 3), np.float32)), dict(weights=np.zeros((15, 16, 3, 3), np.float32)),
        dict(strides=(0, 1)), dict(strides=(1 << 40, 1)), dict(pads=(-1, 0)), dict(pads=(1 << 40, 0)),
        dict(groups=0), dict(groups=3), dict(groups=-16), dict(residual=99), dict(first=(99, 0.0, 0.0)),
        dict(first=(-1, 0.0, 0.0)),
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError):
            conv(x, **change)
    with pytest.raises(ValueError, match="residual"):
        conv(x, residual=net.value(ARENA, 0, (1, 16, 2, 2), 64))
    with pytest.raises(ValueError, match="2\\^31"):
        conv(x, strides=(1 << 20, 1 << 20))
    with pytest.raises(ValueError, match="not complete"):
        net.run([], [])
    net.prepare(0, True)
    with pytest.raises(ValueError, match="too few or too many"):
        net.run([np.zeros(4, np.float32)], [])
    for make in (
        lambda: _native.Net(0, 1, "", 0),
        lambda: _native.Net(1, 1, "abacus", 0),
        lambda: _native.Net(1, 1, "", -1),
    ):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(MemoryError):
        _native.Net(1, 1, "", 1 << 60)


def test_arrays_of_other_sizes_are_refused():
    built = Built("", [(1, 3, 4, 4)])
    built.pack(0, (1, 3, 4, 4))
    built.unpack(0, (1, 3, 4, 4))
    built.net.prepare(0, True)
    x = random((1, 3, 4, 4))
    np.testing.assert_array_equal(built.run(x), x)
    with pytest.raises(ValueError, match="array"):
        built.run(x[:, :2].copy())
    with pytest.raises(TypeError):
        built.run(x.astype(np.float64))
