"""On pretrained models, right engines pass the proof of equivalence and every small damage fails it."""

from functools import cache
from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from benchmarks import _models as models
from carried_models import settled

from raceline import engines
from raceline.convert import IRTranslator, differences, verify
from raceline.ir import Candidate, Reference, make_inputs

NAMES = [carried.name for carried in models.CARRIED]
ENGINES = ["onnxruntime", "openvino", "mnn"]
# OpenVINO refuses the first, and MNN computes the second wrongly.
CANNOT = {("openvino", "silero_vad"), ("mnn", "magika")}


@cache
def known(name):
    """The model, its sizes at batch 1, and inputs and outputs of the reference."""
    model, sizes = settled(name)
    inputs = make_inputs(model.signature, model.signature.concrete(sizes), seed=0)
    return model, sizes, inputs, Reference(model).run(inputs)


def floats(name):
    """Names of the outputs that are floats."""
    expected = known(name)[3]
    return [output for output, array in expected.items() if array.dtype.kind == "f"]


def fails(name, output, wrong):
    """Whether all engines' tolerances refuse this array as that output."""
    expected = known(name)[3]
    got = {**expected, output: wrong.astype(expected[output].dtype)}
    verdicts = [
        {d.name: d.ok for d in differences(expected, got, engines.load(engine).tolerance)}
        for engine in ENGINES
    ]
    assert all(ok for verdict in verdicts for other, ok in verdict.items() if other != output)
    return not any(verdict[output] for verdict in verdicts)


@pytest.mark.slow
@pytest.mark.parametrize("engine, name", sorted(set(product(ENGINES, NAMES)) - CANNOT))
def test_engines_that_are_right_pass(name, engine):
    model, sizes = settled(name)
    verdict = verify(model, IRTranslator().optimize(model), Candidate(engine), [sizes], seeds=(0, 1))
    assert verdict.ok, verdict.outputs


@pytest.mark.slow
def test_an_engine_that_is_wrong_fails():
    model, sizes = settled("magika")
    cases = [{**sizes, model.signature.batch_axis: 3}]
    verdict = verify(model, model, Candidate("mnn"), cases, seeds=(0, 1))
    assert not verdict.ok and verdict.divergence.blame == "engine"


@pytest.mark.parametrize("name", ["nudenet", "magika", "silero_vad", "basic_pitch"])
def test_an_output_of_zeros_fails_and_the_right_one_passes(name):
    expected = known(name)[3]
    for output in floats(name):
        assert not fails(name, output, expected[output])
        assert fails(name, output, 0 * expected[output])
        tiny = {output: expected[output] * np.float32(1e-6 / np.abs(expected[output]).max())}
        for engine in ENGINES:
            tolerance = engines.load(engine).tolerance
            assert differences(tiny, tiny, tolerance)[0].ok
            assert not differences(tiny, {output: 0 * tiny[output]}, tolerance)[0].ok


@pytest.mark.parametrize("channel", range(22))
def test_each_of_a_detectors_channels_counts(channel):
    """Its boxes reach 320, its class scores 0.02 at most."""
    ((output, right),) = known("nudenet")[3].items()
    for factor in (0, 1.1, -1):
        wrong = right.copy()
        wrong[:, channel] *= np.float32(factor)
        assert fails("nudenet", output, wrong)
    swapped = right.copy()
    swapped[:, [channel, channel - 1]] = right[:, [channel - 1, channel]]
    assert fails("nudenet", output, swapped)
    cleared = right.copy()
    cleared[:, 4:] = 0
    assert fails("nudenet", output, cleared)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_detector_without_class_scores_is_not_proven_and_the_node_is_named(engine):
    source, sizes = settled("nudenet")
    broken = source.clone()
    scores = [node for node in broken.program.graph if node.op_type == "Sigmoid"][-1]
    right, zeros = scores.outputs[0], ir.node("Sub", scores.inputs[:1] * 2, name="zeros")
    zeros.outputs[0].name, right.name = right.name, "replaced"
    zeros.outputs[0].type, zeros.outputs[0].shape = right.type, right.shape
    right.replace_all_uses_with(zeros.outputs[0])
    broken.program.graph.insert_after(scores, zeros)
    verdict = verify(source, broken, Candidate(engine), [sizes])
    assert not verdict.ok
    assert (verdict.divergence.blame, verdict.divergence.node) == ("passes", "zeros")
