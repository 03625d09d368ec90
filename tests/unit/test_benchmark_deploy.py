"""The figures of benchmarks.deploy, on races whose truth is known."""

import math

import pytest
from benchmarks.deploy import Found, Race, against, figures


def race(model="m", *, tuned=1.0, unoptimised=None, wrong=(), **plain):
    return Race(model, 1, 1, "ort", tuned, dict(plain), unoptimised, list(wrong))


def found(*races, traffic=0.5, ok=True):
    return Found(list(races), traffic, {"x": ok})


def test_regret_is_against_the_best_plain_engine_that_is_right():
    assert race(tuned=2.0, onnxruntime=1.0, openvino=4.0).regret == 2.0
    assert race(tuned=2.0, onnxruntime=1.0, openvino=4.0, wrong=["onnxruntime"]).regret == 0.5


def test_an_engine_that_refuses_or_is_wrong_is_granted_the_best_other():
    assert against("mnn", race(onnxruntime=3.0, openvino=2.0)) == 2.0
    assert against("mnn", race(onnxruntime=3.0, openvino=2.0, mnn=0.5, wrong=["mnn"])) == 2.0


def test_the_scalars_are_worst_cases_and_every_model_weighs_the_same():
    a = found(race(tuned=1.0, onnxruntime=4.0, openvino=1.0, mnn=4.0, unoptimised=4.0))
    b = found(*[race(tuned=1.0, onnxruntime=1.0, openvino=2.0, mnn=4.0, unoptimised=1.0)] * 3, ok=False)
    result = figures({"a": a, "b": b}, {})
    assert result["picker_regret"] == 1.0
    assert result["speedup_vs_single_engine"] == pytest.approx(
        {"onnxruntime": 2.0, "openvino": math.sqrt(2), "mnn": 4.0}
    )
    assert result["speedup_geomean_vs_best_single_engine"] == pytest.approx(math.sqrt(2))
    assert result["equivalence_ok"] is False


def test_traffic_is_the_worst_of_the_three_named_models():
    one = race(onnxruntime=1.0, unoptimised=1.0)
    result = figures({"resnet50": found(one, traffic=0.5), "minilm_l6": found(one, traffic=0.4),
                      "other": found(one, traffic=0.1)}, {})  # fmt: skip
    assert result["memory_traffic_reduction"] == 0.4


def test_a_model_that_failed_is_not_equivalent():
    one = {"a": found(race(onnxruntime=1.0, unoptimised=1.0))}
    assert figures(one, {})["equivalence_ok"] is True
    assert figures(one, {"b": "refused"})["equivalence_ok"] is False
