"""Models whose batches do not pay run item by item, on a session for the measured shapes."""

import numpy as np
import pytest

from raceline.core.errors import BadModelError, NotReadyError
from raceline.serve.sessions import ItemByItem


class Noted:
    """Doubles its input; knows the shapes it was made for."""

    def __init__(self, shapes):
        self.shapes = dict(shapes)
        self.runs = []
        self.closed = False

    def run(self, inputs):
        if self.shapes:
            assert {name: array.shape for name, array in inputs.items()} == self.shapes
        self.runs.append(inputs["x"].shape)
        return {"y": 2 * inputs["x"], "total": inputs["x"].sum(axis=-1)}

    def memory_bytes(self):
        return 100

    def close(self):
        self.closed = True


@pytest.fixture
def made():
    return []


def item_by_item(made, batched=True):
    def load(shapes):
        made.append(Noted(shapes))
        return made[-1]

    return ItemByItem(load, {"x": (1, 3) if batched else (3,)}, batched=batched)


def test_one_item_runs_on_the_specialised_session(made):
    session = item_by_item(made)
    assert session.run({"x": np.ones((1, 3))})["y"].shape == (1, 3)
    assert [one.runs for one in made] == [[(1, 3)]]


def test_several_items_run_one_by_one_and_come_back_in_order(made):
    x = np.arange(12.0).reshape(4, 3)
    outputs = item_by_item(made).run({"x": x})
    np.testing.assert_array_equal(outputs["y"], 2 * x)
    np.testing.assert_array_equal(outputs["total"], x.sum(1))
    assert made[0].runs == [(1, 3)] * 4


def test_other_shapes_run_on_a_session_that_is_loaded_once(made):
    session = item_by_item(made)
    assert session.memory_bytes() == 100
    for _ in range(2):
        assert session.run({"x": np.ones((2, 5))})["y"].shape == (2, 5)
    assert [one.shapes for one in made] == [{"x": (1, 3)}, {}]
    assert made[1].runs == [(2, 5), (2, 5)]
    assert session.memory_bytes() == 200
    session.close()
    assert all(one.closed for one in made)


@pytest.mark.parametrize(("error", "loads"), [(BadModelError, 1), (NotReadyError, 3)])
def test_a_refusal_of_dynamic_axes_is_remembered_unless_it_may_pass(made, error, loads):
    attempts = []

    def load(shapes):
        if shapes:
            return Noted(shapes)
        attempts.append(shapes)
        raise error("the engine wants fixed shapes")

    session = ItemByItem(load, {"x": (1, 3)}, batched=True)
    depths = []
    for _ in range(3):
        with pytest.raises(error, match="fixed shapes") as caught:
            session.run({"x": np.ones((2, 5))})
        depths.append(len(caught.traceback))
    assert len(attempts) == loads
    assert depths[1] == depths[2], "the traceback does not grow"
    assert session.run({"x": np.ones((1, 3))})["y"].shape == (1, 3), "the measured shapes still work"


def test_without_a_batch_axis_the_whole_shape_counts(made):
    session = item_by_item(made, batched=False)
    session.run({"x": np.ones(3)})
    session.run({"x": np.ones(5)})
    assert [one.runs for one in made] == [[(3,)], [(5,)]]
