"""The figures of benchmarks.tune, on races whose truth is known."""

import math

import pytest
from benchmarks.tune import Race, figures, merged


def race(model="m", *, out=(), **seconds):
    names = {name.replace("_", " "): s for name, s in seconds.items()}
    return Race(model, 1, 1, names, out=dict.fromkeys(out, "why"))


def test_regret_is_against_every_peer_within_the_budget():
    one = race(tuned=2.0, tuned_fp32=3.0, onnxruntime=4.0, nncf_int8_mixed=1.0, unoptimised=0.1)
    assert one.regret == 2.0
    one.out["nncf int8 mixed"] = "outside"
    assert one.regret == 0.5


def test_full_precision_is_compared_with_full_precision():
    one = race(tuned=1.0, tuned_fp32=2.0, onnxruntime=3.0, openvino=4.0, nncf_int8_mixed=0.5)
    assert one.gain_over_best == 1.5
    assert one.gain("openvino") == 2.0
    assert one.gain("mnn") == 1.5  # it refuses the model: its user is granted the best other one


def test_a_peer_counts_once_with_the_better_number_of_threads_that_is_right():
    one = race(onnxruntime_t1=2.0, onnxruntime_t2=1.0, mnn_t1=1.0, mnn_t2=3.0, tuned=1.0, out=["mnn t1"])
    found = merged(one)
    assert found.seconds == {"onnxruntime": 1.0, "mnn": 3.0, "tuned": 1.0}
    assert not found.out
    assert merged(race(mnn_t1=1.0, mnn_t2=3.0, out=["mnn t1", "mnn t2"])).out == {"mnn": "why"}


def test_every_model_weighs_the_same_and_worst_cases_are_the_scalars():
    a = [race("a", tuned=1.0, tuned_fp32=1.0, onnxruntime=4.0, openvino=2.0, mnn=4.0, unoptimised=8.0)]
    b = [race("b", tuned=1.0, tuned_fp32=1.0, onnxruntime=1.0, openvino=2.0, mnn=4.0, unoptimised=2.0)] * 3
    found = figures({"a": a, "b": b})
    assert found["picker_regret"] == 1.0
    assert found["speedup_vs_single_engine"] == pytest.approx(
        {"onnxruntime": 2.0, "openvino": 2.0, "mnn": 4.0}
    )
    assert found["speedup_vs_best_single_engine"] == pytest.approx(2.0)
    assert found["speedup_vs_best_single_engine_worst"] == 1.0
    assert found["speedup_vs_unoptimised"] == pytest.approx(math.sqrt(8.0 * 2.0))
    assert found["within_budget"]


def test_a_choice_that_is_outside_the_budget_shows():
    found = figures({"a": [race(tuned=1.0, tuned_fp32=1.0, onnxruntime=1.0, out=["tuned"])]})
    assert found["within_budget"] is False


def test_without_any_right_peer_there_is_no_regret():
    one = race(tuned=1.0, tuned_fp32=1.0, onnxruntime=1.0, out=["onnxruntime"])
    assert one.regret is None and one.gain_over_best is None
