"""MaxPool, AveragePool and LpPool of the reference, over all their attributes, held to ONNX Runtime and torch."""

from itertools import product

import ir_models as m
import numpy as np
import pytest
import torch
from test_ir_reference import floats, one_node, unread

from raceline.core.errors import BadModelError
from raceline.ir import Reference

SHAPES = {(1, 2, 7): [3], (2, 2, 7, 6): [3, 2], (1, 1, 5, 6, 4): [2, 3, 2]}
POOLS = {
    "MaxPool": [{}, {"storage_order": 1}],
    "AveragePool": [{}, {"count_include_pad": 1}],
    "LpPool": [{"p": 1}, {"p": 3}],
}


def ways(rank):
    """Attributes of the windows, where ONNX Runtime follows the standard."""
    pads = [None, [1] * 2 * rank, [1] * rank + [0] * rank, [0] * rank + [1] * rank]
    for padding, stride, dilation, ceil in product(pads, (None, 2, 3), (None, 2), (0, 1)):
        way = {
            "strides": stride and [stride] * rank,
            "dilations": dilation and [dilation] * rank,
            "pads": padding,
        }
        yield {key: value for key, value in way.items() if value} | {"ceil_mode": ceil}
    for auto, stride in product(("SAME_UPPER", "SAME_LOWER", "VALID"), (None, 2)):
        yield {"auto_pad": auto} | ({"strides": [stride] * rank} if stride else {})


def computed(operator, x, num_outputs=1, opset=22, **attributes):
    proto, feeds = one_node(operator, opset, [x], num_outputs, **attributes)
    return Reference(unread(proto)).run(feeds), lambda: m.judged(proto, feeds)


@pytest.mark.parametrize("operator, options", [(name, one) for name, some in POOLS.items() for one in some])
def test_every_window_is_that_of_onnx_runtime(operator, options):
    for shape, kernel in SHAPES.items():
        x = floats(*shape)
        for way in ways(len(kernel)):
            attributes = {"kernel_shape": kernel, **way, **options}
            found, judged = computed(operator, x, 2 if operator == "MaxPool" else 1, **attributes)
            for name, expected in judged().items():
                assert found[name].shape == expected.shape, attributes
                np.testing.assert_allclose(
                    found[name], expected, rtol=1e-4, atol=1e-5, err_msg=str(attributes)
                )


@pytest.mark.parametrize("counted", [0, 1])
def test_incomplete_windows_are_those_of_torch(counted):
    x = floats(2, 3, 8, 7)
    for padding, stride in product((0, 1), (2, 3)):
        options = {"kernel_size": 3, "stride": stride, "padding": padding, "ceil_mode": True}
        expected = torch.nn.functional.avg_pool2d(
            torch.from_numpy(x), count_include_pad=bool(counted), **options
        )
        found, _ = computed(
            "AveragePool", x, kernel_shape=[3, 3], strides=[stride] * 2, pads=[padding] * 4, ceil_mode=1,
            count_include_pad=counted,
        )  # fmt: skip
        np.testing.assert_allclose(found["o0"], expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("operator", POOLS)
def test_same_counts_the_dilation(operator):
    """As the standard's formula does; ONNX Runtime leaves the dilation out and gives fewer positions."""
    x = floats(1, 1, 7)
    found, _ = computed(operator, x, kernel_shape=[3], dilations=[2], auto_pad="SAME_UPPER")
    explicit, _ = computed(operator, x, kernel_shape=[3], dilations=[2], pads=[2, 2])
    np.testing.assert_array_equal(found["o0"], explicit["o0"])


@pytest.mark.parametrize("operator", POOLS)
def test_valid_windows_are_whole(operator):
    """The standard's formula for VALID gives one number whether it rounds up or not; ONNX Runtime's does not."""
    x, options = floats(1, 1, 7), {"kernel_shape": [3], "strides": [3], "auto_pad": "VALID"}
    up, down = (computed(operator, x, ceil_mode=ceil, **options)[0]["o0"] for ceil in (0, 1))
    np.testing.assert_array_equal(up, down)


def test_places_of_equal_elements_are_the_first_and_nan_wins():
    x = np.array([[[1, 1, 0, np.nan, 5, -np.inf, -np.inf]]], np.float32)
    found, _ = computed("MaxPool", x, 2, kernel_shape=[2])
    assert found["o1"].ravel().tolist() == [0, 1, 3, 3, 4, 5]
    assert np.isnan(found["o0"].ravel()[2:4]).all()


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_places_of_integers(kind):
    x = np.random.default_rng(0).integers(0, 5, (1, 2, 6, 5)).astype(kind)
    found, judged = computed("MaxPool", x, 2, 12, kernel_shape=[2, 2], pads=[1, 0, 0, 1])
    for name, expected in judged().items():
        np.testing.assert_array_equal(found[name], expected)


def test_a_window_larger_than_the_input_is_told():
    with pytest.raises(BadModelError, match=r"window that reaches \[5\] does not fit into \[3\]"):
        computed("AveragePool", floats(1, 1, 3), kernel_shape=[5])
