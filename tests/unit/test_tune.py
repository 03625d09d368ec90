import gc
import json
import logging
import signal
from dataclasses import replace

import onnx_ir
import pytest
from engine_doubles import MACHINE, SHAPES, Track, add_engines, net

from raceline import engines
from raceline.convert import TuningLog, read_log
from raceline.convert._worker import Server
from raceline.convert.choose import representative_s
from raceline.convert.heat import offspring
from raceline.convert.measure import Bench, HinderedError, Worker
from raceline.convert.tune import METHOD, tune
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, NotReadyError, UnknownNameError
from raceline.ir import Candidate, Values, with_batch_axis
from raceline.ir.platform import stated_platform, stated_platforms


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))
    add_engines(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


def linear(candidate):
    """Seconds: honest is faster alone, lying on two threads; batches cost what their items cost."""
    base = {"honest": 0.010, "lying": 0.012}[candidate.engine]
    speedup = 1.0 if candidate.engine == "honest" else candidate.threads**0.9
    return base * candidate.batch / speedup


def test_the_fastest_is_chosen_for_each_batch_and_number_of_threads(model):
    profile = Track(linear, noise=0.02).tune(model, model)
    for batch in (1, 8):
        assert profile.best(threads=1, batch=batch).candidate.engine == "honest"
        assert profile.best(threads=2, batch=batch).candidate.engine == "lying"
        assert profile.best(threads=2, batch=batch).latency_s == pytest.approx(0.0064 * batch, rel=0.1)
    assert profile.platform == MACHINE.key and profile.shapes == SHAPES
    assert all(m.memory_bytes == 1 << 20 and m.runs >= 3 for m in profile.usable())


def test_equal_graphs_are_measured_once_and_others_both(model):
    same = Track(linear)
    same.tune(model, model.clone())
    assert set(same.models) == {"optimised"}
    other = model.clone()
    list(other.program.graph)[0].attributes["group"] = onnx_ir.AttrInt64("group", 1)  # the default, spelt out
    both = Track(lambda c: linear(c) * (0.5 if c.variant == "optimised" else 1.0))
    profile = both.tune(model, other, batches=(1,))
    assert set(both.models) == {"source", "optimised"}
    assert profile.best(threads=1).candidate.variant == "optimised"


def test_batches_are_cut_where_that_is_faster(model):
    def caches(candidate):
        items = candidate.items_per_call
        each = 0.010 if items <= 2 else 0.02
        return each * candidate.batch / candidate.streams / candidate.threads**0.5

    profile = Track(caches).tune(model, model, engine_names=["honest"])
    assert profile.best(threads=1, batch=8).candidate == Candidate("honest", batch=8, chunk=1)
    best = profile.best(threads=2, batch=8).candidate
    assert (best.streams, best.threads, best.items_per_call) == (2, 1, 1)
    assert profile.best(threads=2, batch=1).candidate == Candidate("honest", threads=2)


def test_offspring_cover_chunks_and_streams():
    one, two = Candidate("a", batch=8), Candidate("a", threads=2, batch=8)
    apart = replace(one, streams=2)
    chunks = [replace(one, chunk=1), replace(one, chunk=2), replace(one, chunk=4)]
    assert list(offspring(one, (1, 2))) == [*chunks, apart, replace(apart, chunk=1), replace(apart, chunk=2)]
    assert list(offspring(two, (1, 2))) == [replace(child, threads=2) for child in chunks]
    assert list(offspring(one, (1,))) == chunks
    assert not list(offspring(Candidate("a", batch=1), (1, 2)))
    assert list(offspring(Candidate("a", batch=2), (1, 4))) == [Candidate("a", batch=2, chunk=1)]


def test_slow_candidates_get_little_of_the_time(model):
    track = Track(lambda c: 0.01 if c.engine == "honest" else 0.1)
    track.tune(model, model, batches=(1,), threads=(1,))
    calls = [c.engine for c in track.timed]
    assert calls.count("lying") <= 5 < calls.count("honest")


def test_the_last_of_the_time_is_for_the_contenders(model, tmp_path):
    """Long calls give few rounds; those between which the choice is get more of them than the rest."""
    track = Track(lambda c: 0.2, noise=0.05)
    log = TuningLog(tmp_path / "t.jsonl")
    track.tune(model, two_graphs(model), batches=(1,), threads=(1,), budget_s=12.0, log=log)
    times = read_log(log.written).times(1)
    for engine in ("honest", "lying"):
        rounds = [len(times[Candidate(engine, variant=v)]) for v in ("source", "optimised")]
        assert max(rounds) > 1.3 * min(rounds)


def slow_to_load(track, seconds):
    """Let loading take its time."""
    loading = track.load

    def load(candidate):
        if candidate not in track.loaded:
            track.clock.sleep_s(seconds)
        return loading(candidate)

    track.load = load
    return track


def two_graphs(model):
    other = model.clone()
    list(other.program.graph)[0].attributes["group"] = onnx_ir.AttrInt64("group", 1)
    return other


def test_where_loading_takes_the_time_some_rounds_are_timed_still(model, tmp_path):
    track = slow_to_load(Track(lambda c: 0.01), 1.2)
    log = TuningLog(tmp_path / "t.jsonl")
    track.tune(model, two_graphs(model), batches=(1,), budget_s=6.0, log=log)
    times = read_log(log.written).times(1)
    assert {c.engine for c in times} == {"honest", "lying"} and min(map(len, times.values())) >= 5
    (stop,) = log.stops
    assert stop.untried == 8 - len(times) > 0 and f"{stop.untried} candidates not tried" in str(stop)


@pytest.mark.parametrize("load_s", [0.0, 0.1, 0.7, 2.0, 9.0])
@pytest.mark.parametrize("call_s", [0.001, 0.1, 1.0])
def test_the_budget_is_kept_but_for_what_cannot_be_cut(model, load_s, call_s):
    """It may be a quarter more for want of rounds; and what has begun, one loading and one round, ends."""
    track = slow_to_load(Track(lambda c: call_s, noise=0.3), load_s)
    profile = track.tune(model, two_graphs(model), batches=(1,), budget_s=8.0)
    assert profile.usable()
    alive = max(1, min(8, int(6.0 / (load_s + call_s))))  # of those that could be loaded in time
    assert track.clock.now_s() < 10.0 + load_s + call_s + alive * 2 * max(call_s, 0.03)


@pytest.mark.parametrize(("load_s", "shares"), [(0.0, (3.7, 8.0)), (9.0, (3.7, 3.1))])
def test_a_batch_gets_what_those_before_it_left(model, load_s, shares):
    log = TuningLog()
    slow_to_load(Track(linear), load_s).tune(model, model, budget_s=10.0, log=log)
    small, large = (stop.budget_s for stop in log.stops)
    assert small == pytest.approx(shares[0], abs=0.1)
    assert large > shares[1] if load_s == 0 else large == pytest.approx(shares[1], abs=0.1)


def test_no_engine_waits_for_other_graphs_of_another(model):
    track = slow_to_load(Track(linear), 2.0)
    profile = track.tune(model, two_graphs(model), batches=(1,), budget_s=6.0)
    assert {candidate.engine for candidate in track.timed[:2]} == {"honest", "lying"}
    assert len(profile.usable()) == 3, "where the race between the first is clear, a third one enters"
    assert sum("not tried" in row.failure for row in profile.measurements) == 5


def test_the_fastest_on_one_core_is_tried_in_streams_though_time_is_short(model):
    track = slow_to_load(Track(lambda c: 0.01 * c.batch / c.streams), 1.0)
    profile = track.tune(model, two_graphs(model), batches=(8,), budget_s=8.0)
    streams = [row.candidate for row in profile.usable() if row.candidate.streams > 1]
    assert streams == [replace(profile.best(threads=1, batch=8).candidate, streams=2)], "and nothing else is"
    assert profile.best(threads=2, batch=8).candidate == streams[0]


def test_an_engine_that_never_had_its_turn_is_no_reason_to_keep_the_profile(model):
    for budget_s, opened in ((1.0, 2), (100.0, 1)):
        tracks = [slow_to_load(Track(linear), 2.0) for _ in range(2)]
        for track in tracks:
            track.tune(model, model, batches=(1,), budget_s=budget_s, cache=True)
        assert sum(track.opened for track in tracks) == opened


def test_a_clear_race_ends_before_the_budget(model):
    track = Track(linear)
    track.tune(model, model, budget_s=10_000.0)
    assert track.clock.now_s() < 60


def test_a_candidate_that_fails_later_is_a_failure_with_its_reason(model):
    calls = []

    def crashing_later(candidate):
        calls.append(candidate)
        if candidate.engine == "lying" and len(calls) > 12:
            raise BackendLostError("the worker was killed by SIGBUS")
        return linear(candidate)

    profile = Track(crashing_later).tune(model, model, batches=(1,))
    failed = {m.candidate.engine: m.failure for m in profile.measurements if m.failure}
    assert failed == {"lying": "the worker was killed by SIGBUS"}
    assert profile.best(threads=2).candidate.engine == "honest"


def test_an_engine_that_is_wrong_at_one_batch_is_trusted_at_none(model):
    track = Track(linear)
    right = track.compute
    track.compute = lambda c, *, seed: (
        {"y": right(c, seed=seed)["y"] + (c.batch == 8 and c.engine == "lying")}
    )
    profile = track.tune(model, model)
    assert {m.candidate.engine for m in profile.usable()} == {"honest"}
    assert all("wrong numbers: y" in m.failure for m in profile.measurements if m.candidate.engine == "lying")


def test_nothing_runs(model):
    def refuse(candidate):
        raise BadModelError(f"{candidate.engine} says no")

    with pytest.raises(BadModelError, match="honest says no.*lying says no"):
        Track(refuse).tune(model, model)


def test_batches_need_a_proven_axis(model):
    loose = replace(model, signature=replace(model.signature, batch_axis=None))
    profile = Track(linear).tune(loose, loose)
    assert {m.candidate.batch for m in profile.measurements} == {1}


@pytest.mark.parametrize("wrong", [{"batches": (0, 8)}, {"threads": (0,)}, {"batches": ()}])
def test_impossible_plans(model, wrong):
    with pytest.raises(ConfigError, match="at least 1"):
        Track(linear).tune(model, model, **wrong)


def test_unknown_engines(model):
    with pytest.raises(UnknownNameError, match="warp"):
        Track(linear).tune(model, model, engine_names=["warp"])


def test_a_known_profile_is_not_measured_again(model):
    track = Track(linear)
    first = track.tune(model, model, cache=True)
    assert track.tune(model, model, cache=True) == first
    assert track.opened == 1
    track.tune(model, model, cache=True, threads=(1,))
    track.tune(model, model, cache=True, batches=(1,))
    track.tune(model, model, cache=True, engine_names=["honest"])
    track.tune(model, model, cache=True, budget_s=99.0)
    assert track.opened == 5
    track.tune(model, model)
    assert track.opened == 6, "without the cache"


def test_another_version_of_an_engine_is_measured_anew(model, monkeypatch):
    track = Track(linear)
    track.tune(model, model, cache=True)
    monkeypatch.setattr(engines.load("honest"), "version", lambda: "2")
    track.tune(model, model, cache=True)
    assert track.opened == 2


@pytest.mark.parametrize("choices", [(8000.0,), (16000.0,), ()])
def test_other_values_of_the_inputs_are_measured_anew(model, choices):
    def taking(choices):
        values = Values(0.0, 1.0, choices, "user")
        inputs = tuple(replace(spec, values=values) for spec in model.signature.inputs)
        return replace(model, signature=replace(model.signature, inputs=inputs))

    track = Track(linear)
    track.tune(taking((1.0,)), taking((1.0,)), cache=True)
    track.tune(taking(choices), taking(choices), cache=True)
    assert track.opened == 2


def test_another_version_of_raceline_measures_anew(model, monkeypatch):
    track = Track(linear)
    track.tune(model, model, cache=True)
    monkeypatch.setitem(tune.__globals__, "__version__", "0.0.1")
    track.tune(model, model, cache=True)
    assert track.opened == 2


@pytest.mark.parametrize(
    ("error", "remembered"),
    [
        (HinderedError("no answer within 300 s"), False),
        (NotReadyError("not tried beside the others"), False),
        (BackendLostError("the worker was killed by SIGSEGV"), True),
        (BadModelError("the engine refuses it"), True),
    ],
)
def test_what_may_do_better_on_another_day_is_not_remembered(model, error, remembered):
    def seconds(candidate):
        if candidate.engine == "lying":
            raise error
        return linear(candidate)

    track = Track(seconds)
    for _ in range(2):
        profile = track.tune(model, model, cache=True)
        assert {m.failure for m in profile.measurements if m.candidate.engine == "lying"} == {str(error)}
    assert track.opened == (1 if remembered else 2)


def test_what_was_not_measured_often_enough_is_not_remembered(model):
    def seconds(candidate):  # chunks come late, and the first round of them uses up the time
        return linear(candidate) if not candidate.chunk else 1000.0

    track = Track(seconds)
    profile = track.tune(model, model, cache=True, batches=(8,), engine_names=["honest"])
    assert any("not measured often enough: the time" in m.failure for m in profile.measurements)
    track.tune(model, model, cache=True, batches=(8,), engine_names=["honest"])
    assert track.opened == 2


def test_a_killed_or_slow_worker_was_hindered():
    for hinder, words in ((lambda w: w._process.kill(), "SIGKILL"), (lambda w: None, "no answer")):
        worker = Worker()
        try:
            worker._process.send_signal(signal.SIGSTOP)
            hinder(worker)
            with pytest.raises(HinderedError, match=words):
                worker.ask({"do": "drop", "id": 0}, 1.0)
        finally:
            worker.end()


def test_a_worker_without_memory_was_hindered(model, monkeypatch):
    def starved(self, **command):
        raise MemoryError

    monkeypatch.setattr(Server, "load", starved)
    answer = Server().answer({"do": "load"})
    monkeypatch.setattr(Worker, "_line", lambda self, timeout_s: json.dumps(answer).encode())
    with Bench({"source": model}, SHAPES) as bench, pytest.raises(NotReadyError, match="out of memory"):
        bench.load(Candidate("honest", variant="source"))


def test_the_collector_is_on_again_after_calls_that_failed(model):
    class Failing:
        def run(self, inputs):
            raise BadModelError("no")

    server = Server()
    server._loaded[0] = type("Loaded", (), {"session": Failing(), "inputs": {}})
    assert server.answer({"do": "time", "id": 0, "calls": 1, "warm": False}) == {"error": "no"}
    assert gc.isenabled()


def test_wrong_numbers_are_told_once(model):
    track = Track(linear)
    right = track.compute
    track.compute = lambda c, *, seed: {"y": right(c, seed=seed)["y"] + (c.engine == "lying")}
    for row in track.tune(model, model).measurements:
        assert row.failure.count("wrong numbers") == (row.candidate.engine == "lying")


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", f'{{"method": {METHOD}}}', f'{{"method": {METHOD}, "profile": {{}}}}', "\udcff"]
)
def test_a_damaged_cache_is_measured_anew(model, tmp_path, caplog, damage):
    track = Track(linear)
    first = track.tune(model, model, cache=True)
    (file,) = (tmp_path / "cache" / "profiles").rglob("*.json")
    file.write_bytes(damage.encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        again = track.tune(model, model, cache=True)
    assert track.opened == 2 and again.best().candidate == first.best().candidate
    assert "damaged" in caplog.text
    assert track.tune(model, model, cache=True) == again and track.opened == 2


def test_a_cache_that_cannot_be_written_is_a_warning(model, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        profile = Track(linear).tune(model, model, cache=True)
    assert profile.best() and "cannot keep" in caplog.text


def test_engines_that_crash_lie_or_refuse_do_not_stop_the_others(model):
    names = ["honest", "lying", "crashing", "refusing", "moody"]
    profile = tune(model, model, MACHINE, shapes=SHAPES, batches=(1,), threads=(1, 2), engine_names=names,
                   budget_s=60.0, cache=False, open_bench=Bench)  # fmt: skip
    why = {m.candidate.engine: m.failure for m in profile.measurements if m.failure}
    assert {m.candidate.engine for m in profile.usable()} == {"honest", "moody"}
    assert {m.candidate.threads for m in profile.usable() if m.candidate.engine == "moody"} == {1}
    assert "SIGSEGV" in why["crashing"] and "Conv" in why["refusing"]
    assert "wrong numbers" in why["lying"] and "status 7" in why["moody"]


def test_a_real_engine_is_tuned_end_to_end(model):
    profile = tune(model, model, MACHINE, shapes=SHAPES, batches=(1, 4), threads=(1,), budget_s=3.0,
                   engine_names=["onnxruntime"], open_bench=Bench)  # fmt: skip
    for batch in (1, 4):
        best = profile.best(batch=batch)
        assert 0 < best.latency_s < 1 and best.latency_p99_s >= best.latency_s * 0.5
        assert best.memory_bytes >= 0


def test_disturbed_calls_do_not_count():
    assert representative_s((1.0, 9.0, 1.2), (False, True, False)) == pytest.approx(1.1)
    assert representative_s((3.0, 1.0, 9.0), (True, True, True)) == pytest.approx(2.0)
    assert representative_s((5.0,), (True,)) == 5.0


def test_the_signature_is_what_batches_go_by(model):
    assert with_batch_axis(model, "batch").signature.batch_axis == "batch"


@pytest.mark.parametrize("name", stated_platforms())
def test_another_machine_is_not_measured_here(model, name):
    with pytest.raises(ConfigError, match="cannot be measured here.*platform_profile=None"):
        tune(model, model, stated_platform(name), shapes=SHAPES)
