"""The cost model: fitted right, honest about its errors, and without a say in who wins."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from engine_doubles import MACHINE, SHAPES, Track, add_engines, net

from raceline.convert import TuningLog, cost_model, read_log
from raceline.convert.cost_model import (
    CostModel,
    Expectation,
    Sample,
    Work,
    fit,
    for_platform,
    samples_of,
    shipped,
    work_of,
)
from raceline.convert.example import model_from_text
from raceline.convert.tune import METHOD, tune
from raceline.core.errors import ConfigError
from raceline.ir import Candidate, Measurement, Profile
from raceline.ir.platform import Rate

FAST = replace(MACHINE, rates=(Rate("fp32", "avx2", 1e11, 2e11),), memory_bytes_per_s_per_core=2e10)
HALF = replace(FAST, rates=(Rate("fp32", "avx2", 5e10, 1e11),), memory_bytes_per_s_per_core=1e10)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))
    add_engines(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


def works(count=12, seed=0):
    """Networks of all kinds of work."""
    rng = np.random.default_rng(seed)
    scale = np.array([1e9, 2e7, 2e7, 1e7, 2e7, 100])
    return [Work(*(int(v) for v in scale * np.exp(rng.normal(0, 1.2, 6)))) for _ in range(count)]


def truly_s(work, candidate):
    """A world: one engine is good at dense work, the other at little nodes."""
    rate, node = {"dense": (8e10, 9e-6), "light": (2e10, 1e-6)}[candidate.engine]
    work_s = (work.dense_flops + 5 * work.thin_flops) / rate
    moved_s = (work.moved_bytes + work.other_bytes) / 1e10
    return candidate.batch * (work_s + moved_s) / candidate.threads**0.8 + work.nodes * node


def samples(count=12, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    candidates = [
        Candidate(engine, threads=threads, batch=batch)
        for engine in ("dense", "light")
        for threads in (1, 2)
        for batch in (1, 8)
    ]
    return [
        Sample(f"net{i}", work, c, FAST, truly_s(work, c) * math.exp(rng.normal(0, noise)))
        for i, work in enumerate(works(count, seed))
        for c in candidates
    ]


def test_work_is_what_bounds_it():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[n, 64, 8, 8] x, float[64, 64, 3, 3] w, float[64, 1, 3, 3] d) => (float[n, 64, 8, 8] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w)
            b = Relu(a)
            y = Conv <pads = [1, 1, 1, 1], group = 64> (b, d)
        }""",
        w=np.ones((64, 64, 3, 3), np.float32),
        d=np.ones((64, 1, 3, 3), np.float32),
    )
    found = work_of(model, {"x": (1, 64, 8, 8)})
    plane = 64 * 8 * 8
    assert found.dense_flops == 2 * plane * 64 * 9 and found.thin_flops == 2 * plane * 9
    assert found.moved_bytes == 4 * 4 * plane and found.other_bytes == 2 * 4 * plane
    assert found.weight_bytes == 4 * (64 * 64 * 9 + 64 * 9) and found.nodes == 3
    strange = model_from_text(
        """<ir_version: 8, opset_import: ["": 17, "acme": 1]>
        main (float[n, 4] x) => (float[n, 4] y) { y = acme.Foo(x) }"""
    )
    assert work_of(strange, {"x": (1, 4)}) is None, "nobody knows what it does"


def test_nets_that_were_not_fitted_on_are_predicted():
    known = fit(samples(24), "a made-up world")
    assert all(known.mended_error[e] < known.error[e] for e in known.error), "batch 1 tells of batch 8"
    assert known.error.keys() == {"dense", "light"}
    assert all(1 < known.median_error[e] < known.error[e] < 2 for e in known.error)
    new = samples(8, seed=99)
    factors = [math.exp(abs(math.log(known.predict_s(s.work, s.candidate, FAST) / s.seconds))) for s in new]
    assert np.median(factors) < 1.25
    assert np.mean([f <= max(known.error.values()) for f in factors]) > 0.75, "the stated error holds"
    for work in {s.work for s in new}:
        rows = [s for s in new if s.work == work and s.candidate.threads == s.candidate.batch == 1]
        told = {s.candidate.engine: known.predict_s(work, s.candidate, FAST) for s in rows}
        true = {s.candidate.engine: s.seconds for s in rows}
        if max(true.values()) > 2 * min(true.values()):
            assert min(told, key=told.get) == min(true, key=true.get)


def test_noise_is_part_of_the_stated_error():
    quiet, noisy = fit(samples(16), ""), fit(samples(16, noise=0.5), "")
    assert all(noisy.error[engine] > 1.3 * quiet.error[engine] for engine in quiet.error)


def test_a_machine_half_as_fast_takes_twice_the_time():
    known = fit(samples(), "")
    work, candidate = Work(10**9, 0, 10**6, 0, 0, 1), Candidate("dense")
    ratio = known.predict_s(work, candidate, HALF) / known.predict_s(work, candidate, FAST)
    assert ratio == pytest.approx(2, rel=0.2)


def test_few_samples_leave_the_base_nearly_as_it_is_and_many_move_it():
    base = fit(samples(), "here")
    slower = [replace(s, seconds=3 * s.seconds) for s in samples(24, seed=5)]

    def off(count):
        after = fit(slower[:count], "there", base=base) if count else base
        return np.mean(
            [abs(math.log(after.predict_s(s.work, s.candidate, FAST) / s.seconds)) for s in slower]
        )

    errors = [off(count) for count in (0, 1, 16, len(slower))]
    assert errors == sorted(errors, reverse=True) and errors[1] > 0.5 * errors[0] and errors[-1] < 0.25


def test_nothing_is_known_of_other_engines_or_from_nothing():
    assert fit(samples(), "").predict_s(works()[0], Candidate("warp"), FAST) is None
    with pytest.raises(ConfigError, match="nothing to fit"):
        fit([], "")
    pair = Candidate("dense>light@x")
    assert samples_of("net", works()[0], {pair: 1.0, Candidate("dense", optimise=False): 1.0}, FAST) == []


def test_what_ships_says_where_it_is_from_and_how_far_it_is_off():
    known = shipped()
    assert known.architecture == "x86_64" and known.version == cost_model.VERSION and "EPYC" in known.source
    assert known.error.keys() == known.median_error.keys() == known.mended_error.keys()
    assert known.error.keys() >= {"mnn", "onnxruntime", "openvino"}
    for engine in known.error:
        assert 1 < known.median_error[engine] < known.error[engine] < 10
        assert 1 < known.mended_error[engine] < 10
        resnet18 = Work(3_600_000_000, 0, 30_000_000, 20_000_000, 47_000_000, 50)
        assert 0.005 < known.predict_s(resnet18, Candidate(engine), FAST) < 0.5
    assert all(math.isfinite(value) for value in known.coefficients.values())


# ---------------------------------------------------------------- what it may decide


def believing(monkeypatch, seconds, error=1.2):
    """Let the tuner expect what `seconds` says of an engine."""

    def predict_s(self, work, candidate, platform):
        return seconds(candidate)

    known = CostModel({}, {"honest": error, "lying": error}, {"honest": 1.1, "lying": 1.1},
                      {"honest": 1.05, "lying": 1.05}, "", "x86_64")  # fmt: skip
    monkeypatch.setattr(CostModel, "predict_s", predict_s)
    monkeypatch.setitem(tune.__globals__, "for_platform", lambda platform, method: known)


def quick_chunks(candidate):
    """Honest wins; at batch 8 only in chunks, which come late."""
    if candidate.engine == "lying":
        return 0.008 * candidate.batch if candidate.batch > 1 else 0.012
    if candidate.batch == 1:
        return 0.010 / candidate.threads**0.5
    return candidate.batch * (0.006 if candidate.chunk == 1 else 0.01) / candidate.streams**0.9


def slow_honest(candidate):
    """What a liar says: that honest is hopeless."""
    return 1.0 * candidate.batch if candidate.engine == "honest" else 0.01 * candidate.batch


def winners(profile):
    return {
        (batch, cores): profile.best(batch=batch, threads=cores).candidate
        for batch in (1, 8)
        for cores in (1, 2)
    }


def test_a_model_that_lies_cannot_change_the_winner_given_time(model, monkeypatch):
    fair = winners(Track(quick_chunks, noise=0.01).tune(model, model))
    assert {c.engine for c in fair.values()} == {"honest"} and fair[8, 1].chunk == 1
    believing(monkeypatch, slow_honest)
    monkeypatch.setattr(Expectation, "learn", lambda self, measured: None)  # nor does it mend itself
    monkeypatch.setattr(
        Expectation, "hopeless", lambda self, founders, first: [c for c in founders if c.engine == "honest"]
    )
    track = Track(quick_chunks, noise=0.01)
    profile = track.tune(model, model)
    assert [c.engine for c in track.timed[:8]].count("honest") == 0, "it was believed at first"
    assert winners(profile) == fair


def test_what_is_expected_to_be_fast_enters_first(model, monkeypatch):
    believing(monkeypatch, lambda c: 0.01 * c.batch / c.threads * (1 if c.engine == "lying" else 3))
    track = Track(lambda c: 0.01 * c.batch)
    track.tune(model, model)
    assert [(c.engine, c.threads) for c in track.timed[:4]] == [
        ("lying", 2), ("honest", 2), ("lying", 1), ("honest", 1)
    ]  # fmt: skip


def test_the_hopeless_wait_and_without_time_are_not_tried(model, monkeypatch, tmp_path):
    believing(monkeypatch, slow_honest)
    monkeypatch.setattr(Expectation, "learn", lambda self, measured: None)
    track = Track(lambda c: 0.1 * c.batch, noise=0.2)
    profile = track.tune(model, model, budget_s=4.0, cache=True)
    untried = [row for row in profile.measurements if "not tried" in row.failure]
    assert {(row.candidate.engine, row.candidate.batch) for row in untried} == {("honest", 1), ("honest", 8)}
    tried = {c for c in track.timed if c.engine == "honest"}
    assert len(tried) == 1 and {c.batch for c in tried} == {1}, "each engine's best is tried once"
    again = Track(lambda c: 0.1 * c.batch)
    assert again.tune(model, model, budget_s=4.0, cache=True) == profile and not again.timed


def test_the_hopeless_are_tried_where_all_others_fail(model, monkeypatch):
    believing(monkeypatch, slow_honest)

    def seconds(candidate):
        if candidate.engine == "lying":
            raise ConfigError("I refuse")
        return 2.0

    profile = Track(seconds).tune(model, model, budget_s=1.0, batches=(8,))
    assert profile.best().candidate.engine == "honest"


def test_errors_decide_who_is_hopeless(monkeypatch):
    candidates = [Candidate("honest", batch=8), Candidate("lying", batch=8)]
    for error, waiting in ((1.2, 1), (4.0, 1), (12.0, 0)):
        believing(monkeypatch, slow_honest, error)
        known = tune.__globals__["for_platform"](MACHINE, METHOD)
        expected = Expectation(known, works()[0], MACHINE)
        assert len(expected.hopeless(candidates, first=False)) == waiting
        assert expected.hopeless(candidates, first=True) == []
    believing(monkeypatch, lambda c: 0.1 * c.batch if c.engine == "honest" else 0.01 * c.batch, 12.0)
    expected = Expectation(tune.__globals__["for_platform"](MACHINE, METHOD), works()[0], MACHINE)
    assert expected.hopeless(candidates, first=False) == []
    expected.learn({Candidate("honest"): 0.11, Candidate("lying"): 0.01})
    assert expected.hopeless(candidates, first=False) == [candidates[0]], "once measured, it is nearly sure"


def test_what_was_measured_mends_what_is_expected(monkeypatch):
    believing(monkeypatch, slow_honest)
    expected = Expectation(tune.__globals__["for_platform"](MACHINE, METHOD), works()[0], MACHINE)
    assert expected.seconds(Candidate("honest", batch=8)) == 8.0
    expected.learn({Candidate("honest"): 0.005, Candidate("honest", threads=2): 0.005})
    assert expected.seconds(Candidate("honest", batch=8)) == pytest.approx(0.04)
    assert expected.seconds(Candidate("lying", batch=8)) == pytest.approx(0.08)


def test_a_log_is_replayed_without_any_model(model, monkeypatch, tmp_path):
    path = tmp_path / "t.jsonl"
    believing(monkeypatch, slow_honest)
    first = Track(quick_chunks, noise=0.01).tune(model, model, log=TuningLog(path))
    told = read_log(path)
    assert told.head.work == work_of(model, SHAPES)
    assert any(event.waiting for event in told.events)
    monkeypatch.setitem(tune.__globals__, "for_platform", lambda *_: pytest.fail("nothing is predicted"))
    track = Track(quick_chunks)
    assert track.tune(model, model, log=TuningLog(replay=path)) == first and not track.timed


def test_the_cache_of_this_machine_moves_the_model(tmp_path):
    assert for_platform(FAST, METHOD) == shipped()
    folder = tmp_path / "cache" / "profiles" / FAST.key
    folder.mkdir(parents=True)
    for number, work in enumerate(works(6)):
        rows = tuple(
            Measurement(Candidate("onnxruntime", threads=t, batch=b), latency_s=b * work.dense_flops / 1e9)
            for t in (1, 2)
            for b in (1, 8)
        )
        profile = Profile(FAST.key, f"net{number}", {"x": (1,)}, rows)
        data = {"method": METHOD, "profile": profile.to_json(), "work": asdict(work)}
        (folder / f"{number}.json").write_text(json.dumps(data))
    for name, text in (
        ("a", "{"),
        ("b", f'{{"method": {METHOD}}}'),
        ("c", "[" * 100_000),
        ("d", '{"method": 1}'),
    ):
        (folder / f"{name}.json").write_text(text)
    found = for_platform(FAST, METHOD)
    assert "6 models tuned on this machine" in found.source and "EPYC" in found.source
    work = works(6)[0]
    before, after = (m.predict_s(work, Candidate("onnxruntime"), FAST) for m in (shipped(), found))
    true = work.dense_flops / 1e9
    assert abs(math.log(after / true)) < 0.5 * abs(math.log(before / true))
    assert found.error["openvino"] == shipped().error["openvino"]
    assert for_platform(FAST, METHOD + 1) == shipped(), "profiles of another method tell nothing"
    assert for_platform(replace(FAST, architecture="aarch64"), METHOD) is None
