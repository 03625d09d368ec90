"""`raceline convert tune`: a real net tuned within a budget, its log replayed, and every kind of bad input."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from engine_doubles import net

from raceline import cli
from raceline.core.errors import ConfigError
from raceline.core.units import parse_duration_s
from raceline.ir import Accuracy, Bundle, Candidate, Measurement, Profile, run_reference
from raceline.loop import tuning
from raceline.loop.tuning import best_of


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the command line; returns exit code, standard output and standard error."""
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["raceline", "convert", "tune", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_a_bundle_that_is_tuned_proven_and_replayed(run, tmp_path):
    model = net(tmp_path)
    path, log = tmp_path / "net.onnx", tmp_path / "net.jsonl"
    code, out, err = run(path, "--budget", "2s", "--log", log, "--json", "-o", tmp_path / "a")
    assert code == 0, err
    told = json.loads(out)
    assert told["equivalence"]["ok"] and told["log"] == str(log)
    assert {row["batch"] for row in told["best"]} == {1, 8} and all(row["why"] for row in told["best"])
    assert {stop["batch"] for stop in told["stops"]} == {1, 8}
    bundle = Bundle.open(tmp_path / "a")
    assert bundle.profile.best(batch=8).throughput_per_s == max(
        row["throughput_per_s"] for row in told["best"] if row["batch"] == 8
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    found, expected = (run_reference(m, {"x": x})["y"] for m in (bundle.model, model))
    assert np.abs(found - expected).max() < 1e-4

    code, out, err = run(path, "--replay", log, "-o", tmp_path / "b")
    assert code == 0, err
    assert "nothing was measured" in out and "stopped after" in out and "proven" in out
    assert Bundle.open(tmp_path / "b").profile == bundle.profile


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--budget", "soon"], "is not a duration.*60s"),
        (["--budget", "0s"], "is not a duration"),
        (["--precision", "int8"], "needs calibration data"),
        (["--precision", "int3"], "no precision 'int3'"),
        (["--log", "."], "cannot be written"),
        (["--shape", "x"], "NAME=VALUE"),
    ],
)
def test_bad_input(run, tmp_path, options, words):
    net(tmp_path)
    code, out, err = run(tmp_path / "net.onnx", "-o", tmp_path / "out", *options)
    assert code == 2 and out == "" and not (tmp_path / "out").exists()
    assert re.search(words, err), err


def test_other_files_are_not_replaced(run, tmp_path):
    net(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    code, _, err = run(tmp_path / "net.onnx", "-o", tmp_path / "out")
    assert code == 2 and "out" in err and (tmp_path / "out" / "thesis.txt").exists()


def test_why_names_the_next_engine_and_what_bits_cost():
    accuracy = Accuracy("top1", 1.0, 0.99, 10, "x.npz", labelled=True)
    rows = (
        Measurement(Candidate("a", "int8", variant="int8-a"), latency_s=1.0, accuracy=accuracy),
        Measurement(Candidate("a"), latency_s=2.0),
        Measurement(Candidate("b"), latency_s=3.0),
        Measurement(Candidate("a", threads=2), latency_s=0.5),
    )
    one, two = best_of(Profile("p", "m", {"x": (1,)}, rows))
    assert (one.cores, two.cores) == (1, 2)
    assert one.why == (
        "3.00 times as fast as b; 2.00 times as fast as fp32; top1 1.0000 -> 0.9900 on 10 items (x.npz)"
    )
    assert two.why == "6.00 times as fast as b"
    alone = Profile("p", "m", {"x": (1,)}, (Measurement(Candidate("a"), latency_s=2.0),))
    assert tuning.best_of(alone)[0].why == "nothing else ran it"
    left = replace(
        alone, measurements=(*alone.measurements, Measurement(Candidate("b"), failure="not tried: x"))
    )
    assert tuning.best_of(left)[0].why == "there was no time to try b"


def test_durations():
    assert [parse_duration_s(text) for text in ("60s", "1.5min", "2h", "90", "2m")] == [60, 90, 7200, 90, 120]
    for text in ("", "fast", "-3s", "1d", "0"):
        with pytest.raises(ConfigError, match="Write it as 60s"):
            parse_duration_s(text)
