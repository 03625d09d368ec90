"""The figures of benchmarks.convert, on proofs whose truth is known."""

from collections import Counter

import numpy as np
import pytest
from benchmarks.convert import Found, Proof, deviation, figures, timed_peer


def proof(name, max_rel=1e-6, needs=""):
    return Proof(name, "m", "oracle", max_rel, 1e-4, 0.5, needs=needs)


def test_only_what_keeps_to_its_tolerance_is_proven():
    proofs = [proof("a"), proof("b", needs="torch"), proof("c", 1e-3), proof("d", float("nan"))]
    result = figures(Found(proofs, conformance=Counter(passed=5, wrong=1, refused=2), silero=""))
    assert (result["formats_proven"], result["formats_without_framework"]) == (2, 1)
    assert (result["conformance_pass"], result["conformance_wrong"]) == (5, 1)
    assert result["silero_jit_deploys"] is True
    assert set(result["read_seconds"]) == {"a", "b", "c", "d"}


def test_traffic_is_the_worst_of_the_three_named_models():
    shares = {"resnet50": (0.5, 0.1), "mobilenet_v2": (0.4, 0.45), "minilm_l6": (0.7, 0.2), "other": (0.1, 0)}
    result = figures(Found(traffic=shares, silero="no torch"))
    assert result["memory_traffic_reduction"] == 0.4
    assert result["memory_traffic_reduction_onnxruntime"] == 0.1
    assert result["silero_jit_deploys"] is False


def test_deviations_are_relative_to_each_outputs_largest_value():
    ours = {"a": np.float32([1, 100.1]), "b": np.float32([0.1])}
    assert deviation(ours, {"a": np.float32([1, 100]), "b": np.float32([0.1])}) == pytest.approx(
        1e-3, rel=0.01
    )
    assert deviation(ours, [np.float32([1, 100]), np.float32([0.2])]) == pytest.approx(0.5)
    assert deviation(ours, {"a": np.float32([1])}) == float("inf")
    assert deviation({"a": np.float32([np.nan])}, {"a": np.float32([1])}) == float("inf")


def test_a_peer_that_fails_says_why():
    def fails():
        raise ValueError("no such operator")

    assert timed_peer(fails) == (None, "no such operator")
    assert timed_peer("too old") == (None, "too old")
    assert timed_peer(1.5) == (1.5, "")
    seconds, refusal = timed_peer(lambda: None)
    assert seconds is not None and refusal == ""
