"""Resize of the reference, over all its attributes, held to ONNX Runtime and to torch's interpolate.

Where ONNX Runtime differs from the standard's text the reference follows the text; each such case is named here.
"""

from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
from test_ir_reference import floats, one_node, unread

from raceline.core.errors import BadModelError
from raceline.ir import Reference
from raceline.ir.reference_resize import Resampling, resize

PLACES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
CROP = "tf_crop_and_resize"
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
SHAPES = [(1, 2, 7, 10), (1, 1, 1, 5), (1, 1, 3, 1)]
SCALES = [0.3, 0.5, 0.6, 0.7, 1.2, 1.7, 2.0, 3.3]
WAYS = [
    *({"mode": "nearest", "nearest_mode": rounding} for rounding in ROUNDINGS),
    *({"mode": "linear", "antialias": smooth} for smooth in (0, 1)),
    *({"mode": "cubic", "antialias": a, "exclude_outside": x} for a in (0, 1) for x in (0, 1)),
]


def onnx_runtime(x, how, scales=None, sizes=None, roi=None, axes=None, opset=19):
    """What it computes, or None where it has no such mode."""
    some = [None if v is None else np.array(v, np.float32) for v in (roi, scales)]
    if opset == 11:  # both had to be there
        some = [np.zeros(0, np.float32) if v is None else v for v in some]
    attributes = how | ({} if axes is None else {"axes": axes})
    proto, feeds = one_node(
        "Resize", opset, [x, *some, None if sizes is None else np.array(sizes)], 1, **attributes
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        (expected,) = session.run(None, feeds)
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        return proto, feeds, None
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return proto, feeds, None
    return proto, feeds, expected


def agrees(x, how, **given):
    """Whether the reference and ONNX Runtime agree; also where the latter has no such mode."""
    proto, feeds, expected = onnx_runtime(x, how, **given)
    found = Reference(unread(proto)).run(feeds)["o0"]
    return expected is None or (
        found.shape == expected.shape
        and found.dtype == expected.dtype
        and np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    )


def halfway(shape, scales, how):
    """Whether an output position lies at a pixel's edge, where one rounding in single precision decides."""
    if how["mode"] != "nearest":
        return False
    step = {"floor": 1, "ceil": 1}.get(how["nearest_mode"], 0.5)
    for length, scale in zip(shape[2:], scales, strict=True):
        out = np.arange(int(np.float32(length) * np.float32(scale)))
        target = length * scale
        near = [out / scale, (out + 0.5) / scale - 0.5]
        near.append(near[1] + length / 2 * (1 - len(out) / target))
        if any(np.any(np.abs(n / step - np.rint(n / step)) < 1e-5) for n in near):
            return True
    return False


def differing(ways, shapes, scales):
    """Every case where reference and ONNX Runtime disagree, and is it not known which of two roundings is right."""
    for how, place, shape in product(ways, PLACES, shapes):
        x, options = floats(*shape), how | {"coordinate_transformation_mode": place}
        for first, second in product(scales, scales):
            sizes = [max(1, round(n * s)) for n, s in zip(shape[2:], (first, second), strict=True)]
            exact = [s / n for n, s in zip(shape[2:], sizes, strict=True)]
            if not halfway(shape, exact, how) and not agrees(x, options, sizes=[*shape[:2], *sizes]):
                yield options, shape, sizes
            if (
                min(
                    int(np.float32(n) * np.float32(s))
                    for n, s in zip(shape[2:], (first, second), strict=True)
                )
                < 1
            ):
                continue
            whole = all(float(n * s).is_integer() for n, s in zip(shape[2:], (first, second), strict=True))
            if place == "align_corners" and not whole:
                continue  # see test_aligned_corners_of_a_fractional_length
            if not halfway(shape, (first, second), how) and not agrees(
                x, options, scales=[1, 1, first, second]
            ):
                yield options, shape, (first, second)


def test_every_mode_is_that_of_onnx_runtime():
    assert list(differing(WAYS, SHAPES[:1], [0.6, 1.7])) == []
    assert list(differing(WAYS, SHAPES[1:], [0.7, 1.2])) == []


@pytest.mark.slow
def test_every_mode_is_that_of_onnx_runtime_by_many_scales():
    assert list(differing(WAYS, SHAPES, SCALES)) == []


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_crops_are_those_of_onnx_runtime(how):
    options = how | {"coordinate_transformation_mode": CROP, "extrapolation_value": 7.5}
    for roi in (
        [0, 0, 0.1, 0.2, 1, 1, 0.9, 0.7],
        [0, 0, -0.2, 0.4, 1, 1, 0.6, 1.3],
        [0, 0, 0.9, 0, 1, 1, 0.2, 1],
    ):
        for sizes in ([1, 2, 3, 4], [1, 2, 1, 9], [1, 2, 12, 1]):
            assert agrees(floats(*SHAPES[0]), options, roi=roi, sizes=sizes), (roi, sizes)


def test_a_crop_by_scales_is_as_long_as_the_standard_says():
    """Length * (end - start) * scale; ONNX Runtime forgets the crop."""
    x = floats(1, 10)
    how = Resampling("linear", CROP)
    found = resize(x, how, scales=[1, 2], roi=[0, 0, 1, 0.5])
    assert found.shape == (1, 10)
    np.testing.assert_allclose(found, resize(x, how, sizes=[1, 10], roi=[0, 0, 1, 0.5]))


def test_aligned_corners_of_a_fractional_length():
    """The standard's examples divide by the length before it is rounded; runtimes and torch by the rounded."""
    x = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    how = Resampling("linear", "align_corners")
    np.testing.assert_allclose(resize(x, how, scales=[0.6, 0.6]), [[1, 1 + 3 / 1.4]], rtol=1e-6)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_mode_of_opset_11_alone(rounding):
    how = {
        "mode": "nearest",
        "nearest_mode": rounding,
        "coordinate_transformation_mode": "tf_half_pixel_for_nn",
    }
    for scale in (0.7, 1.7):
        assert agrees(floats(1, 2, 7, 11), how, scales=[1, 1, scale, scale], opset=11)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_proportions_may_be_kept_and_axes_named(policy):
    x = floats(2, 7, 3, 10)
    for mode, axes, sizes in product(["nearest", "linear", "cubic"], [[2, 3], [3, 2]], [[5, 4], [9, 3]]):
        how = {"mode": mode, "keep_aspect_ratio_policy": policy}
        assert agrees(x, how, sizes=sizes, axes=axes), (mode, axes, sizes)


def test_axes_may_be_counted_from_the_end():
    """With a policy ONNX Runtime then takes the wrong lengths."""
    x, how = floats(2, 7, 3, 10), Resampling("linear", keep_aspect_ratio_policy="not_larger")
    found = resize(x, how, sizes=[5, 4], axes=[-1, -2])
    np.testing.assert_array_equal(found, resize(x, how, sizes=[5, 4], axes=[3, 2]))
    assert found.shape == (2, 7, 2, 5)
    assert agrees(x, {"mode": "linear"}, sizes=[5, 4], axes=[-1, -2])


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.uint8, np.int8, np.int32])
def test_element_types(kind):
    x = (floats(1, 2, 5, 6) * 20 + 50).astype(kind)
    for mode, scale in product(["nearest", "linear", "cubic"], [0.5, 2]):
        assert agrees(x, {"mode": mode}, scales=[1, 1, scale, scale])
    assert resize(np.array([3, 3], kind), Resampling("linear"), scales=[3]).tolist() == [3] * 6


def test_a_scale_that_changes_no_length_changes_nothing():
    x = floats(3)
    for mode in ("nearest", "linear", "cubic"):
        assert resize(x, Resampling(mode), scales=[1.2]) is x
        if mode != "nearest":
            assert agrees(floats(1, 1, 3, 4), {"mode": mode, "antialias": 1}, scales=[1, 1, 1.2, 2])
        assert agrees(floats(1, 1, 3, 4), {"mode": mode}, scales=[1, 1, 1.2, 2])


def test_scales_are_single_precision():
    """10 * 0.7 is 7, and 6 / 1.2 is 5, though neither is in double precision of the nearest single numbers."""
    assert resize(floats(10), Resampling(), scales=[0.7]).shape == (7,)
    x = np.arange(10)
    found = resize(x, Resampling("nearest", "asymmetric", "floor"), scales=[1.2])
    assert found.tolist() == [0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9]


TORCH = {
    "nearest": ({"mode": "nearest"}, Resampling("nearest", "asymmetric", "floor"), (1, 2, 3)),
    "nearest-exact": (
        {"mode": "nearest-exact"}, Resampling(nearest_mode="round_prefer_ceil"), (1, 2, 3)
    ),
    "linear": ({}, Resampling("linear"), (1, 2, 3)),
    "aligned": ({"align_corners": True}, Resampling("linear", "align_corners"), (1, 2, 3)),
    "bicubic": ({"mode": "bicubic"}, Resampling("cubic"), (2,)),
    "bicubic aligned": ({"mode": "bicubic", "align_corners": True}, Resampling("cubic", "align_corners"), (2,)),
    "smooth": ({"antialias": True}, Resampling("linear", antialias=1, exclude_outside=1), (2,)),
    "bicubic smooth": (
        {"mode": "bicubic", "antialias": True},
        Resampling("cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1),
        (2,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_interpolation_is_that_of_torch(name):
    options, how, ranks = TORCH[name]
    for rank, shape, scale in product(ranks, [(7, 10, 5), (5, 3, 6), (1, 4, 9)], SCALES):
        x = floats(1, 2, *shape[:rank])
        sizes = [max(1, round(n * s)) for n, s in zip(x.shape[2:], (scale, 1.5, 1.5), strict=False)]
        linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[rank]
        image = torch.from_numpy(x)
        expected = torch.nn.functional.interpolate(image, size=sizes, **{"mode": linear} | options)
        found = resize(x, how, sizes=[1, 2, *sizes])
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
        scales = [scale, 1.5, 1.5][:rank]
        if how.antialias or how.coordinate_transformation_mode == "align_corners" or x.shape[2] * scale < 1:
            continue
        expected = torch.nn.functional.interpolate(
            image, scale_factor=tuple(scales), **{"mode": linear} | options
        )
        found = resize(x, how, scales=[1, 1, *scales])
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_one_position_of_pytorch_half_pixel_is_the_first():
    """As the standard says, and ONNX Runtime does; cubic neighbours tell it from -0.5, which linear ones do not."""
    x = floats(1, 1, 3, 5)
    how = Resampling("cubic", "pytorch_half_pixel")
    np.testing.assert_allclose(resize(x, how, sizes=[1, 1, 1, 1]), x[:, :, :1, :1], rtol=1e-6)


def test_nothing_left_is_nothing():
    assert resize(floats(1, 3), Resampling("linear"), scales=[1, 0.2]).shape == (1, 0)


@pytest.mark.parametrize("attribute", ["mode", "coordinate_transformation_mode", "nearest_mode"])
def test_an_unknown_mode_is_told(attribute):
    proto, feeds = one_node(
        "Resize", 19, [floats(1, 3), None, np.array([1, 2], np.float32)], 1, **{attribute: "odd"}
    )
    with pytest.raises(BadModelError, match=f"{attribute} 'odd' is none of"):
        Reference(unread(proto)).run(feeds)


def test_what_is_missing_is_told():
    with pytest.raises(ValueError, match="either scales or sizes"):
        resize(floats(3), Resampling())
    with pytest.raises(ValueError, match="needs the input roi"):
        resize(floats(3), Resampling("linear", CROP), sizes=[2])
