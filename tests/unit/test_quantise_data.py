"""Data and labels that say nothing, or too little, are told."""

from dataclasses import replace

import numpy as np
import pytest
from quantise_cases import batched, classifier, judge_of, labelled

from raceline.convert import quantise
from raceline.convert.example import model_from_text
from raceline.core.errors import ConfigError
from raceline.ir import run_reference


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (1000, "labels are 100[0-4] to 100[0-4], and 'y' has 5 classes. Count classes from 0 to 4"),
        (-100, "labels are -[0-9]+ to -[0-9]+, and"),
        (
            None,
            "answers 0.0% of 24 items rightly: that is no better than chance among 5 classes.*count from 0",
        ),
    ],
)
def test_labels_that_belong_to_something_else_are_told(shift, words):
    """With them nothing could be lost, whatever a quantised model answers."""
    model = classifier()
    right = labelled(model, wrong=0)
    labels = (right.labels + 1) % 5 if shift is None else right.labels + shift
    given = quantise.from_arrays(model.signature, right.arrays, labels=labels)
    with pytest.raises(ConfigError, match=words):
        judge_of(model, given, quantise.Budget("top1"))


def test_an_output_that_follows_from_the_scores_is_no_score():
    model = batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 8] x, float[8, 5] w) => (int64[N] k, float[N, 5] y) {
            y = MatMul(x, w)
            k = ArgMax<axis = 1, keepdims = 0>(y)
        }""",
            w=(8, 5),
        )
    )
    x = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    labels = run_reference(model, {"x": x})["k"]
    judge = judge_of(
        model, quantise.from_arrays(model.signature, {"x": x}, labels=labels), quantise.Budget("top1")
    )
    assert judge.full == 1.0


@pytest.mark.parametrize(
    ("metric", "drop", "items", "words"),
    [
        ("top1", 0.01, 99, "rests on 99 items only: one more wrong answer is 0.01, and 100 are needed"),
        ("top1", 0.0, 4, "rests on 4 items only: one more wrong answer is 0.25"),
        ("top1", 0.01, 100, ""),
        ("fidelity", 0.05, 1, "rests on 1 item only"),
        ("fidelity", 0.05, 8, ""),
    ],
)
def test_a_verdict_on_few_items_is_doubted(metric, drop, items, words):
    found = quantise.doubt(quantise.Budget(metric, drop), items)
    assert words in found if words else not found


@pytest.mark.parametrize("content", [b"an essay", b"", b"\x80\x04K\x01."])
def test_files_that_are_no_arrays_are_not_called_pickles(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match="is no calibration data: its content is of another kind"):
        quantise.from_file(classifier().signature, tmp_path / "x.npz")


def test_scalars_stay_scalars():
    model = batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 8] x, float s) => (float[N, 8] y) { y = Mul(x, s) }"""
        )
    )
    alone = replace(model.signature, batch_axis=None)
    found = quantise.from_arrays(alone, {"x": np.ones((3, 1, 8), np.float32), "s": np.ones(3, np.float32)})
    assert {name: array.shape for name, array in next(iter(found)).items()} == {"x": (1, 8), "s": ()}
