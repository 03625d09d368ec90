"""Every pass fires on its example, keeps the numbers, settles, and gives the same result each time."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from raceline.convert import Rewrite, optimise, rewrite
from raceline.ir import FUSED_DOMAIN
from raceline.ir.inputs import make_inputs
from raceline.ir.reference import run_reference

PASSES = rewrite.names()


def feeds(model, seed=0):
    sizes = {axis: 2 + place for place, axis in enumerate(model.signature.dynamic_axes)}
    return make_inputs(model.signature, model.signature.concrete(sizes), seed=seed)


def error(model, other, inputs):
    """The largest deviation of any output, relative to that output's largest magnitude."""
    before, after = run_reference(model, inputs), run_reference(other, inputs)
    assert before.keys() == after.keys()
    worst = 0.0
    for name, value in before.items():
        assert value.dtype == after[name].dtype and value.shape == after[name].shape
        difference = np.abs(value.astype(np.float64) - after[name].astype(np.float64))
        worst = max(worst, float(difference.max(initial=0)) / max(float(np.abs(value).max(initial=0)), 1e-30))
    return worst


def rewrites(report):
    return [item for item in report if isinstance(item, Rewrite)]


@pytest.fixture(params=PASSES)
def name(request):
    return request.param


@pytest.fixture
def author(name):
    return rewrite.load(name)


@pytest.fixture
def result(name, author):
    return optimise(author.example(), passes=[name])


def test_says_what_it_is(name, author):
    assert author.description and "\n" not in author.description and author.__doc__
    assert isinstance(author.after, tuple) and set(author.after) <= set(PASSES) - {name}
    assert 0 <= author.tolerance <= 1e-4
    one_node_at_a_time = all(hasattr(author, part) for part in ("pattern", "check", "rewrite"))
    assert one_node_at_a_time != hasattr(author, "run")


def test_fires_on_its_example(name, result):
    fired = rewrites(result[1])
    assert fired and {item.pass_name for item in fired} == {name}
    for item in fired:
        assert item.reason and item.before and str(item).startswith(f"{name}: ")


@pytest.mark.parametrize("seed", [0, 1])
def test_keeps_the_numbers(author, result, seed):
    model = author.example()
    assert error(model, result[0], feeds(model, seed)) <= author.tolerance


def test_all_passes_together_keep_the_numbers(author):
    model = author.example()
    together = sum(rewrite.load(other).tolerance for other in PASSES)
    assert error(model, optimise(model)[0], feeds(model)) <= together


def test_a_second_run_changes_nothing(name, result):
    again, report = optimise(result[0], passes=[name])
    assert not rewrites(report)
    assert ir.to_proto(again.program) == ir.to_proto(result[0].program)


def test_two_runs_agree(name, author, result):
    other, report = optimise(author.example(), passes=[name])
    assert report == result[1]
    assert ir.to_proto(other.program) == ir.to_proto(result[0].program)


def test_leaves_the_model_it_was_given_alone(name, author):
    model = author.example()
    before = ir.to_proto(model.program)
    optimise(model, passes=[name])
    assert ir.to_proto(model.program) == before


def test_the_result_is_a_sound_onnx_model(result):
    onnx.checker.check_model(ir.to_proto(result[0].program), full_check=True)


def test_fused_bodies_are_standard_operators(result):
    for function in result[0].program.functions.values():
        assert function.domain == FUSED_DOMAIN
        assert {node.domain for node in function} == {""}


def test_keeps_what_users_see(author, result):
    model = author.example()
    assert result[0].signature == model.signature
    for side in ("inputs", "outputs"):
        before, after = (getattr(m.program.graph, side) for m in (model, result[0]))
        assert [(v.name, v.dtype, v.shape) for v in before] == [(v.name, v.dtype, v.shape) for v in after]


def test_says_in_the_provenance_what_it_did(result):
    assert list(result[0].provenance.steps) == [str(item) for item in rewrites(result[1])]
