"""`raceline convert quantise` and `deploy --data`: real nets in 8 bits, and every kind of bad input."""

import json
import os
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from engine_doubles import net

from raceline import cli
from raceline.convert import tune
from raceline.convert.example import model_from_text
from raceline.convert.precision import Admission
from raceline.core.errors import BadModelError, ConfigError, UnavailableError
from raceline.ir import Accuracy, Bundle, Candidate, Measurement, Profile, run_reference, write_onnx
from raceline.ir.manifest import FORMAT_VERSION
from raceline.loop import Plan, deploy, preparing, tune_bundle, tuning


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line; returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["raceline", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def pictures(items=24):
    return np.random.default_rng(0).standard_normal((items, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def files(tmp_path):
    """A net, pictures, and its own answers as their classes."""
    model = net(tmp_path)
    np.save(tmp_path / "x.npy", pictures())
    np.save(tmp_path / "y.npy", run_reference(model, {"x": pictures()})["y"].argmax(1))
    return tmp_path


def test_a_bundle_in_eight_bits(run, files):
    code, out, err = run(
        "convert", "quantise", files / "net.onnx", "--data", files / "x.npy", "--labels", files / "y.npy",
        "--metric", "top1", "--accuracy-drop", 0.1, "--engine", "openvino", "--json", "-o", files / "q",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert told["met"] and told["accuracy"]["metric"] == "top1" and told["accuracy"]["labelled"]
    assert told["accuracy"]["items"] == 12 and told["accuracy"]["full"] == 1.0
    assert told["layers"] == 3 and told["kept"] == [] and told["scheme"]["results"] is False
    every = sum(path.stat().st_size for path in (files / "q").iterdir())
    assert told["bytes_after"] == every and told["size_reduction"] == 1 - every / told["bytes_before"]
    bundle = Bundle.open(files / "q")
    assert bundle.equivalence["ok"] and bundle.equivalence["accuracy"]["origin"] == "x.npy"
    kinds = {str(tensor.dtype) for tensor in bundle.model.program.graph.initializers.values()}
    assert "INT8" in kinds
    expected = run_reference(net(files), {"x": pictures()})["y"]
    found = run_reference(bundle.model, {"x": pictures()})["y"]
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


def test_a_budget_that_cannot_be_met_keeps_the_best_and_ends_with_one(run, files):
    code, out, err = run(
        "convert", "quantise", files / "net.onnx", "--data", files / "x.npy", "--accuracy-drop", 0,
        "-o", files / "q",
    )  # fmt: skip
    assert code == 1 and "could not be met" in err
    assert "NOT within 0" in out and "every file counted" in out and "alone it costs" in out
    assert Bundle.open(files / "q").equivalence["ok"] is False


def wrong_shape(folder):
    np.save(folder / "x.npy", pictures()[:, :, :7])


def with_nan(folder):
    bad = pictures()
    bad[17, 0, 0, 0] = np.nan
    np.save(folder / "x.npy", bad)


def nothing_to_quantise(folder):
    model = model_from_text(
        '<ir_version: 8, opset_import: ["": 17]> net (float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Relu(x) }'
    )
    write_onnx(model, folder / "net.onnx")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_shape, ["x.npy", "does not fit the model", "[8, 3, 7, 8]"]),
        (with_nan, ["NaN or infinity in 'x'", "item 17"]),
        (nothing_to_quantise, ["nothing to quantise", "no convolution"]),
        (lambda folder: (folder / "x.npy").unlink(), ["no calibration data at"]),
        (lambda folder: np.save(folder / "y.npy", np.zeros(3, int)), ["3 labels", "24 items"]),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(run, files, spoil, words):
    spoil(files)
    labels = ("--labels", files / "y.npy", "--metric", "top1") if "labels" in words[0] else ()
    code, _, err = run(
        "convert", "quantise", files / "net.onnx", "--data", files / "x.npy", *labels, "-o", files / "q"
    )
    assert code == 2 and "Traceback" not in err and not (files / "q").exists()
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--engine", "mnn"], "runs no quantised graphs"),
        (["--engine", "warp"], "warp"),
        (["--metric", "vibes"], "there is no metric"),
        (["--accuracy-drop", "2"], "makes no sense"),
        (["--weights-only", "5"], "8 and 4 bits are possible"),
        (["--weights-only", "4", "--engine", "warp"], "warp"),
    ],
)
def test_settings_that_make_no_sense(run, files, options, word):
    code, _, err = run(
        "convert", "quantise", files / "net.onnx", "--data", files / "x.npy", "-o", files / "q", *options
    )
    assert code == 2 and word in err and not (files / "q").exists()


def dense(folder):
    """One item of 512 numbers; two products."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[batch, 512] x, float[512, 512] w, float[512, 64] v) => (float[batch, 64] y) {
          p = MatMul(x, w)
          r = Relu(p)
          y = MatMul(r, v)
        }""",
        w=(512, 512), v=(512, 64),
    )  # fmt: skip
    write_onnx(model, folder / "dense.onnx")
    return model


def test_weights_alone_need_no_data(run, tmp_path):
    model = dense(tmp_path)
    code, out, err = run(
        "convert", "quantise", tmp_path / "dense.onnx", "--weights-only", 4, "--accuracy-drop", 0.2, "--json",
        "-o", tmp_path / "q",
    )  # fmt: skip
    assert code == 0, err
    told = json.loads(out)
    assert (
        told["met"] and told["scheme"]["bits"] == 4 and told["layers"] == 2 and told["size_reduction"] > 0.8
    )
    assert told["accuracy"]["origin"] == "generated inputs, not data" and told["notes"] == {}
    bundle = Bundle.open(tmp_path / "q")
    kinds = [str(tensor.dtype) for tensor in bundle.model.program.graph.initializers.values()]
    assert kinds.count("INT4") == 2 and bundle.files["weights.bin"].size_bytes < 200_000
    x = {"x": np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)}
    expected, found = run_reference(model, x)["y"], run_reference(bundle.model, x)["y"]
    assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)


def test_weights_alone_that_lose_too_much_are_told(run, files):
    code, out, err = run(
        "convert", "quantise", files / "net.onnx", "--weights-only", 8, "--data", files / "x.npy",
        "--accuracy-drop", 0, "-o", files / "q",
    )  # fmt: skip
    assert code == 1 and "could not be met" in err and "NOT within 0" in out
    assert "8-bit weights alone" in out and "every file counted" in out


def test_weights_alone_that_are_asked_for_are_judged_on_their_engine(tmp_path, monkeypatch):
    dense(tmp_path)
    monkeypatch.setattr(preparing, "tune", partial(tune, batches=(1,), threads=(1,)))
    plan = Plan(
        tmp_path / "dense.onnx", tmp_path / "out", budget_s=1, precision="int8-weights", accuracy_drop=0.05
    )
    found = tune_bundle(plan)
    assert found.equivalence.ok and "int8-weights" in found.equivalence.candidate
    bundle = Bundle.open(found.bundle)
    assert {row.candidate.precision for row in bundle.profile.usable()} == {"int8-weights"}
    assert bundle.equivalence["accuracy"]["origin"] == "generated inputs, not data"


def test_a_deployment_in_eight_bits_is_proven_and_served(files):
    plan = Plan(
        files / "net.onnx", files / "out", budget_s=1, load_s=0.5, data=str(files / "x.npy"), precision="int8",
        accuracy_drop=0.05,
    )  # fmt: skip
    found = deploy(plan)
    proof = found.equivalence
    assert proof.ok and proof.accuracy.origin == "x.npy" and "int8" in proof.candidate
    assert " int8" in found.after.setup and " fp32" in found.before.setup
    assert found.after.saturated.errors == {} and found.after.saturated.requests_per_s > 0
    bundle = Bundle.open(found.bundle)
    assert bundle.profile.variant.startswith("int8-") and bundle.equivalence["accuracy"]["items"] == 12
    assert {row.candidate.precision for row in bundle.profile.usable()} == {"int8"}
    sheet = json.loads((found.bundle / "bundle.json").read_text())
    assert sheet["format_version"] == FORMAT_VERSION and Profile.from_json(sheet["profile"]) == bundle.profile
    page = (found.bundle / "report.html").read_text()
    assert "accuracy budget of 0.05" in page


def test_int8_that_loses_too_much_is_refused_and_the_best_is_told(files, monkeypatch):
    plan = Plan(
        files / "net.onnx", files / "out", budget_s=9, data=str(files / "x.npy"), precision="int8",
        accuracy_drop=0.2,
    )  # fmt: skip

    def refuse(self, found):
        raise BadModelError("not within the accuracy budget: 0.8")

    monkeypatch.setattr(Admission, "refuse_lossy", refuse)
    with pytest.raises(
        BadModelError, match="at int8 .*int8 .*: 0.8.*--accuracy-drop, or take --precision auto"
    ):
        tune_bundle(plan)
    assert not (files / "out").exists()


def test_a_full_disk_is_told_before_the_work(files, monkeypatch):
    nothing = SimpleNamespace(f_bavail=0, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: nothing)
    monkeypatch.setattr(preparing, "tune", None)
    with pytest.raises(UnavailableError, match="the disk has 0 B left. Free some space"):
        tune_bundle(Plan(files / "net.onnx", files / "new" / "out"))


@pytest.mark.parametrize(
    "settings", [{"precision": "int8"}, {"precision": "int3"}, {"labels": "y.npy"}, {"metric": "vibes"}]
)
def test_plans_that_make_no_sense(files, settings):
    with pytest.raises(ConfigError):
        Plan(files / "net.onnx", files / "out", **settings)


def test_a_quantised_bundle_is_tuned_like_any_model(run, files):
    """Its numbers are held to steps, and not to the last digits, which fall to either side of a step."""
    code, _, err = run(
        "convert", "quantise", files / "net.onnx", "--data", files / "x.npy", "--accuracy-drop", 0.2,
        "-o", files / "q",
    )  # fmt: skip
    assert code == 0, err
    code, out, err = run("convert", "tune", files / "q", "--budget", "2s", "--json", "-o", files / "tuned")
    assert code == 0, err
    x = pictures()
    bundle = Bundle.open(files / "tuned")
    expected = run_reference(Bundle.open(files / "q").model, {"x": x})["y"]
    np.testing.assert_allclose(run_reference(bundle.model, {"x": x})["y"], expected, atol=1e-4)
    told = json.loads(out)
    assert told["equivalence"]["rtol"] == 0.05 and "measured" in told["serves"]
    code, out, err = run(
        "convert", "tune", files / "q", "--budget", "2s", "--data", files / "x.npy", "-o", files / "tuned"
    )
    assert code == 0 and "the model comes quantised: fp32 is what is called here as it was given" in out, err
    code, _, err = run("convert", "quantise", files / "q", "--data", files / "x.npy", "-o", files / "twice")
    assert code == 2 and "nothing to quantise: conv: it is quantised already" in err


def test_what_fewer_bits_cost_is_told_where_they_lose(files):
    accuracy = {"metric": "fidelity", "full": 1.0, "quantised": 0.99, "items": 12, "origin": "x.npy"}

    def row(engine, precision, seconds, **more):
        candidate = Candidate(engine, precision, variant=precision)
        given = None if precision == "fp32" else Accuracy(**accuracy)
        return Measurement(candidate, seconds, seconds, runs=3, accuracy=given, **more)

    rows = (row("a", "fp32", 0.1), row("b", "int8", 0.15), row("c", "int8", 0.0, failure="it crashed"))
    late = Measurement(Candidate("b", "int8", batch=8, variant="int8"), failure="not tried: no time")
    profile = Profile("p", "m", {"x": (1,)}, (*rows, late))
    best = tuning.best_of(profile)
    assert tuning._of_fewer_bits(profile, best) == [
        "int8 on b is not taken: at best 1.50 times the time of full precision, at batch 1; nothing is known of "
        "batch 8",
        "int8 on c is out: it crashed",
    ]
    (note,) = tuning._of_few_calls(best)
    assert "rests on 3 calls only" in note


def test_a_run_with_data_is_replayed_where_nothing_is_cached(run, files, monkeypatch):
    """Which graphs are made is measured too; the log tells it, so that the replay makes the same."""
    given = ("--data", files / "x.npy", "--accuracy-drop", 0.2)
    for folder, how in (
        ("a", ("--budget", "4s", "--log", files / "log")),
        ("b", ("--replay", files / "log")),
    ):
        monkeypatch.setenv("RACELINE_CACHE_DIR", str(files / f"cache {folder}"))
        code, out, err = run("convert", "tune", files / "net.onnx", *given, *how, "-o", files / folder)
        assert code == 0, err
        assert "serves " in out and "quantise " in out, "what a server does, and where the time went"
    assert "nothing was measured" in out
    assert Bundle.open(files / "a").profile == Bundle.open(files / "b").profile


def test_labels_that_no_metric_reads_are_refused(run, files):
    code, _, err = run(
        "convert", "quantise", files / "net.onnx", "--data", files / "x.npy", "--labels", files / "y.npy",
        "-o", files / "q",
    )  # fmt: skip
    assert code == 2 and "does not look at labels" in err and "--metric top1" in err


def test_a_net_without_layers_is_refused_before_anything_is_measured(run, files):
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }"""
    )
    write_onnx(model, files / "relu.onnx")
    code, _, err = run(
        "convert",
        "tune",
        files / "relu.onnx",
        "--data",
        files / "x.npy",
        "--precision",
        "int8",
        "-o",
        files / "t",
    )
    assert code == 2 and "tune batch" not in err
    assert "nothing to quantise" in err and "accuracy-drop" not in err
