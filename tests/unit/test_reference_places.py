"""GridSample of the reference, over all its attributes, held to torch's grid_sample and to ONNX Runtime."""

from itertools import product

import ir_models as m
import numpy as np
import pytest
import torch
from test_ir_reference import floats, one_node, unread

from raceline.ir import Reference
from raceline.ir.reference_places import grid_sample

TORCH = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
PADDINGS = ["zeros", "border", "reflection"]
WAYS = [
    {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    for mode, padding, aligned in product(TORCH, PADDINGS, [0, 1])
]
SPACES = [(5, 6, 4), (1, 4, 3), (3, 1, 1)]


def grids(rank):
    """Places inside, far outside, and halfway between elements."""
    inside = np.random.default_rng(rank).uniform(-1, 1, (2, *(4, 5, 3)[:rank], rank)).astype(np.float32)
    return {"inside": inside, "outside": 4 * inside, "halfway": np.round(inside * 8) / np.float32(4)}


@pytest.mark.parametrize("how", WAYS, ids=lambda how: "-".join(map(str, how.values())))
def test_every_mode_is_that_of_torch_and_onnx_runtime(how):
    for rank, space in product((2, 3), SPACES):
        image = floats(2, 3, *space[:rank])
        if rank == 3 and how["mode"] == "cubic":
            continue  # neither knows it; see below
        for kind, grid in grids(rank).items():
            proto, feeds = one_node("GridSample", 20, [image, grid], 1, **how)
            found = Reference(unread(proto)).run(feeds)["o0"]
            asked = {"mode": TORCH[how["mode"]], "padding_mode": how["padding_mode"]}
            expected = torch.nn.functional.grid_sample(
                torch.from_numpy(image),
                torch.from_numpy(grid),
                align_corners=bool(how["align_corners"]),
                **asked,
            )
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
            if kind == "halfway" and how["mode"] == "nearest" and how["padding_mode"] == "reflection":
                continue  # ONNX Runtime rounds before it reflects: another of two neighbours equally near
            np.testing.assert_allclose(found, m.judged(proto, feeds)["o0"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [way for way in WAYS if way["mode"] == "cubic"], ids=str)
def test_cubic_volumes_are_cubic_along_each_axis(how):
    """A volume that is constant along one axis is sampled as its slice is."""
    plane = floats(1, 2, 4, 5)
    volume = np.repeat(plane[:, :, None], 6, axis=2)
    grid = np.random.default_rng(0).uniform(-1.5, 1.5, (1, 3, 4, 2)).astype(np.float32)
    depth = np.zeros((*grid.shape[:-1], 1), np.float32)
    inside = np.concatenate([grid, depth], axis=-1)[:, None]
    np.testing.assert_allclose(
        grid_sample(volume, inside, **how)[:, :, 0], grid_sample(plane, grid, **how), rtol=1e-4, atol=1e-5
    )


def test_a_line_is_sampled_too():
    line = np.array([[[10.0, 20.0, 30.0]]])
    found = grid_sample(line, np.array([[[-1.0], [0.5], [1.0]]]), align_corners=1)
    assert found.tolist() == [[[10, 25, 30]]]


def test_places_that_are_nowhere_break_nothing():
    grid = np.array([[[[np.nan, 0], [np.inf, 0], [1e30, -1e30]]]], np.float32)
    with np.errstate(all="ignore"):
        for how in WAYS:
            assert grid_sample(floats(1, 1, 3, 3), grid, **how).shape == (1, 1, 1, 3)


@pytest.mark.parametrize("wrong", [{"mode": "odd"}, {"padding_mode": "odd"}])
def test_an_unknown_mode_is_told(wrong):
    with pytest.raises(ValueError, match="'odd' is not one of|'odd' or padding_mode"):
        grid_sample(floats(1, 1, 3, 3), floats(1, 2, 2, 2), **wrong)
