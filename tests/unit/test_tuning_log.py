"""The tuner's log: a killed run goes on, a whole log gives the same profile again, and nothing else counts."""

import fcntl
import json
import logging
import math
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine_doubles import MACHINE, SHAPES, Track, add_engines, net

import raceline
from raceline.convert import Bench, TuningLog, best_of, read_log, seconds_to_within, tune
from raceline.convert.journal import Journal, LogFile
from raceline.convert.tuning_log import Event, Head, Log, line
from raceline.core.clock import ManualClock
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, NotReadyError
from raceline.ir import Accuracy, Candidate


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))
    add_engines(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


class Killed(BaseException):
    """Ends a run as a kill does: nothing behind it runs."""


def seconds(candidate):
    """Chunks help, so that there is offspring; lying is better on two threads, and breaks at batch 8."""
    if (candidate.engine, candidate.batch, candidate.threads) == ("lying", 8, 2):
        raise BackendLostError("the worker was killed by SIGBUS")
    base = {"honest": 0.010, "lying": 0.012}[candidate.engine]
    each = base if candidate.items_per_call <= 2 else 1.3 * base
    speedup = candidate.threads**0.9 if candidate.engine == "lying" else 1.0
    return each * candidate.batch / candidate.streams**0.8 / speedup


def tuned(model, log, track=None, **settings):
    track = track or Track(seconds, noise=0.03)
    return track, track.tune(model, model, log=log, **settings)


def killed_after(model, path, bursts, **settings):
    """A run that ends for no reason after so many bursts."""
    track = Track(seconds, noise=0.03)
    real = track.time

    def dying(candidate, calls, *, warm=True):
        if len(track.timed) >= bursts:
            raise Killed
        return real(candidate, calls, warm=warm)

    track.time = dying
    with pytest.raises(Killed):
        tuned(model, TuningLog(path), track, **settings)
    return track


def lines(path):
    return [json.loads(row) for row in path.read_text().splitlines()]


def test_everything_that_happens_is_told_as_it_happens(model, tmp_path):
    path = tmp_path / "t.jsonl"
    log = TuningLog(path)
    track, profile = tuned(model, log)
    head, *events = lines(path)
    assert head["platform"] == MACHINE.key and head["budget_s"] == 30.0 and head["threads"] == [1, 2]
    assert set(head["engines"]) == {"honest", "lying"} and head["models"].keys() == {"optimised"}
    kinds = {event["do"] for event in events}
    assert kinds == {"founders", "load", "check", "time", "retired", "stop", "end"}
    assert sum(event["do"] == "time" for event in events) == len(track.timed)
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)
    assert any("SIGBUS" in event.get("error", "") for event in events)
    assert log.written == path and log.notes == []
    assert [stop.batch for stop in log.stops] == [1, 8]
    assert all(stop.why in str(stop) and 0 < stop.spent_s for stop in log.stops)
    found = read_log(path).typical_s()
    for row in profile.usable():
        assert found[row.candidate] == pytest.approx(row.latency_s)


def test_a_whole_log_gives_the_same_profile_without_measuring(model, tmp_path):
    path = tmp_path / "t.jsonl"
    _, first = tuned(model, TuningLog(path), budget_s=20.0)
    log = TuningLog(replay=path)
    track, again = tuned(model, log, batches=(1,), budget_s=99.0)  # the log's own batches and budget count
    assert again == first and not track.timed and not track.answered
    assert "nothing was measured" in log.notes[0] and [stop.why for stop in log.stops]
    assert log.written is None


@pytest.mark.parametrize("bursts", [0, 1, 7, 30, 60])
def test_a_killed_run_goes_on_where_it_was(model, tmp_path, bursts):
    path, whole = tmp_path / "t.jsonl", tmp_path / "whole.jsonl"
    tuned(model, TuningLog(whole))
    before = killed_after(model, path, bursts)
    known = read_log(path)
    log = TuningLog(path)
    after, profile = tuned(model, log)
    assert "resumed from" in log.notes[0] and f"{known.events[-1].t:.0f} s" in log.notes[0]
    told = read_log(path)
    assert told.events[: len(known.events)] == known.events and told.ended
    bursts_told = [e for e in told.events if e.do == "time" and not e.error]
    assert len(before.timed) + len(after.timed) == len(bursts_told), "nothing is measured twice"
    assert profile.best(threads=1).candidate.engine == "honest"
    assert tuned(model, TuningLog(replay=path))[1] == profile, "and all of it can be replayed"


def test_the_time_before_a_kill_counts(model, tmp_path):
    path = tmp_path / "t.jsonl"
    track = killed_after(model, path, 60, batches=(1,), budget_s=1.0)
    log = TuningLog(path)
    after, _ = tuned(model, log, batches=(1,), budget_s=1.0)
    assert log.stops[0].spent_s < 1.5 + track.clock.now_s()
    assert read_log(path).events[-1].t == pytest.approx(track.clock.now_s() + after.clock.now_s(), abs=0.1)


def test_a_line_that_was_not_written_whole_is_left_out(model, tmp_path):
    path = tmp_path / "t.jsonl"
    killed_after(model, path, 20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert len(read_log(path).events) == len(whole.splitlines()) - 2
    log = TuningLog(path)
    tuned(model, log)
    assert "resumed" in log.notes[0] and read_log(path).ended


def test_the_cache_keeps_the_log_of_a_killed_run(model, tmp_path):
    killed_after(model, None, 20, cache=True)
    log = TuningLog()
    track, profile = tuned(model, log, cache=True)
    assert "resumed from" in log.notes[0] and log.written.parent.parent == tmp_path / "cache" / "profiles"
    assert "5 of 9 candidates known" in log.notes[0]
    later = TuningLog()
    assert tuned(model, later, cache=True)[1] == profile and "in the cache" in later.notes[0]


def changed(path, number, **fields):
    rows = lines(path)
    rows[number] |= fields
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"raceline": "0.0.9"}, 'raceline "0.0.9" instead of'),
        ({"method": 1}, "method 1 instead of"),
        ({"platform": "cpu-of-another"}, "platform"),
        ({"engines": {"honest": "0", "lying": "1"}}, "engines"),
        ({"seed": 7}, "seed 7 instead of 0"),
    ],
)
def test_a_log_of_another_version_or_machine_is_not_gone_on_with(model, tmp_path, fields, words):
    path = tmp_path / "t.jsonl"
    killed_after(model, path, 20)
    changed(path, 0, **fields)
    old = path.read_bytes()
    log = TuningLog(path)
    track, _ = tuned(model, log)
    assert words in log.notes[0] and "kept as t.jsonl.old" in log.notes[0]
    assert (tmp_path / "t.jsonl.old").read_bytes() == old
    assert sum(e.do == "time" and not e.error for e in read_log(path).events) == len(track.timed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows[:5] + ["{"] + rows[5:],
        lambda rows: rows[:5] + ['{"do": "time", "t": NaN}'] + rows[5:],
        lambda rows: rows[:5] + ['{"do": "time", "t": 3, "candidate": {"engine": "honest"}}'] + rows[5:],
        lambda rows: rows[:5] + ['{"do": "load", "t": 3}'] + rows[5:],
        lambda rows: rows[:5] + ['{"do": "load", "t": 3, "colour": 1}'] + rows[5:],
        lambda rows: rows[:5] + ["[" * 100_000] + rows[5:],
        lambda rows: rows[:5] + [json.dumps({**json.loads(rows[5]), "t": -1})] + rows[5:],
    ],
)
def test_a_damaged_log_is_told_and_measured_anew(model, tmp_path, damage, caplog):
    path = tmp_path / "t.jsonl"
    killed_after(model, path, 20)
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    log, replayed = TuningLog(path), TuningLog(replay=path)
    tuned(model, replayed)
    assert "damaged: line 6" in replayed.notes[0]
    tuned(model, log)
    assert "damaged: line 6" in log.notes[0] and read_log(path).ended


def test_a_damaged_log_in_the_cache_is_told(model, tmp_path, caplog):
    killed_after(model, None, 20, cache=True)
    (path,) = (tmp_path / "cache" / "profiles").rglob("*.jsonl")
    path.write_text("rubbish\n")
    with caplog.at_level(logging.WARNING):
        tuned(model, TuningLog(), cache=True)
    assert "no tuning log" in caplog.text and read_log(path).ended


def test_what_is_no_log_is_left_as_it_is(model, tmp_path):
    path = tmp_path / "thesis.txt"
    path.write_text("years of work\n")
    with pytest.raises(ConfigError, match="no tuning log.*give another --log"):
        tuned(model, TuningLog(path))
    assert path.read_text() == "years of work\n"
    with pytest.raises(ConfigError, match="cannot be written: it is no file"):
        tuned(model, TuningLog(tmp_path))
    with pytest.raises(ConfigError, match="cannot be written"):
        tuned(model, TuningLog(path / "below.jsonl"))


@pytest.mark.parametrize("fields", [{"platform": "another"}, {"engines": {"honest": "1", "absent": "2"}}])
def test_a_log_of_elsewhere_says_only_what_to_try_first(model, tmp_path, fields):
    """There lying was the faster one by far; here it is tried first, and loses."""
    path = tmp_path / "t.jsonl"
    there = Track(lambda c: 0.001 if c.engine == "lying" else 0.01 / c.threads)
    tuned(model, TuningLog(path), there)
    changed(path, 0, **fields)
    log = TuningLog(replay=path)
    track, profile = tuned(model, log)
    assert "only says which candidates to try first" in log.notes[0] and next(iter(fields)) in log.notes[0]
    assert [c.engine for c in track.timed[:4]] == ["lying", "honest", "lying", "honest"]
    assert [c.threads for c in track.timed[1:4:2]] == [2, 1]
    assert profile.best(threads=1).candidate.engine == "honest"


def test_a_run_that_did_not_end_cannot_be_replayed(model, tmp_path):
    path = tmp_path / "t.jsonl"
    killed_after(model, path, 30)
    log = TuningLog(replay=path)
    track, _ = tuned(model, log)
    assert "did not end" in log.notes[0] and track.timed


def test_a_log_that_was_tampered_with_is_no_measurement(model, tmp_path):
    path = tmp_path / "t.jsonl"
    tuned(model, TuningLog(path))
    place = next(i for i, row in enumerate(lines(path)) if row["do" if i else "log"] == "time")
    changed(path, place, candidate={"engine": "warp"})
    log = TuningLog(replay=path)
    track, profile = tuned(model, log)
    assert "it does not fit: it tells of time warp" in log.notes[0] and track.timed
    assert "warp" not in {row.candidate.engine for row in profile.measurements}


def test_times_that_were_tampered_with_do_not_give_the_same_profile(model, tmp_path):
    path = tmp_path / "t.jsonl"
    tuned(model, TuningLog(path))
    rows = lines(path)
    place = max(i for i, row in enumerate(rows) if i and row["do"] == "time")
    changed(path, place, times_s=[s / 100 for s in rows[place]["times_s"]])
    log = TuningLog(replay=path)
    track, _ = tuned(model, log)
    assert "does not fit" in log.notes[0] and track.timed


def test_two_runs_do_not_write_one_log(model, tmp_path):
    path = tmp_path / "t.jsonl"
    other = LogFile(path)
    log = TuningLog(path)
    tuned(model, log)
    assert "another run writes" in log.notes[0] and log.written is None and path.read_bytes() == b""
    other.close()


def test_a_full_disk_ends_the_log_and_not_the_run(model, tmp_path, monkeypatch, caplog):
    real, count = LogFile.write, []

    def full(self, record):
        count.append(record)
        if len(count) > 9:
            raise OSError(28, "No space left on device")
        real(self, record)

    monkeypatch.setattr(LogFile, "write", full)
    _, profile = tuned(model, TuningLog(tmp_path / "t.jsonl"))
    assert profile.best() and "No space left" in caplog.text and len(count) == 10


def test_failures_are_what_they_were(tmp_path):
    journal = Journal(ManualClock())
    for error, kind in ((NotReadyError("no memory"), BackendLostError), (BadModelError("no"), BadModelError)):
        with pytest.raises(kind, match=str(error)):
            journal.happen(Event("load", 0.0), lambda error=error: (_ for _ in ()).throw(error))


def test_accuracy_is_told(tmp_path):
    event = Event(
        "check", 1.0, candidate=Candidate("a", "int8"), accuracy=Accuracy("top1", 1.0, 0.9, 7, "x.npz", True)
    )
    head = Head("0", 1, "p", {}, True, {}, "", {}, (1,), (1,), 1.0, 0, "", "")
    path = tmp_path / "t.jsonl"
    path.write_bytes(line(head) + line(event))
    assert read_log(path) == Log(head, (event,), path.stat().st_size)


def test_when_the_choice_came_near_enough(tmp_path):
    slow, quick, quicker = (Candidate(name) for name in ("slow", "quick", "quicker"))
    rows = [
        (0, {slow: 1.0}), (1, {slow: 1.0, quick: 0.52}), (2, {slow: 1.0, quick: 0.52, quicker: 0.5}),
        (3, {slow: 1.0, quick: 0.52, quicker: 0.5}),
    ]  # fmt: skip
    events = [
        Event("time", 10.0 * number + place, candidate=c, number=number, times_s=(s,))
        for number, row in rows
        for place, (c, s) in enumerate(row.items())
    ]
    head = Head("0", 1, "p", {}, True, {}, "", {}, (1,), (1,), 1.0, 0, "", "")
    log = Log(head, tuple(events))
    assert best_of(log) == {(1, 1): pytest.approx(0.5)}
    assert seconds_to_within(log) == {(1, 1): 11.0}
    assert seconds_to_within(log, share=0.01) == {(1, 1): 22.0}
    assert seconds_to_within(log, best_s={(1, 1): 0.3}) == {(1, 1): math.inf}
    lost = replace(events[-1], t=40.0, error="killed", times_s=())
    assert seconds_to_within(Log(head, (*events, lost)), share=0.01, best_s={(1, 1): 0.5}) == {
        (1, 1): math.inf
    }


SCRIPT = """
import sys
sys.path[:0] = [{source!r}, {tests!r}]
from pathlib import Path
from engine_doubles import FOLDER, MACHINE, SHAPES, net
from raceline import engines
from raceline.convert import Bench, TuningLog, tune
engines.__path__.append(str(FOLDER))
model = net(Path({folder!r}))
tune(model, model, MACHINE, shapes=SHAPES, batches=(1, 2), threads=(1,), engine_names=["honest", "moody"],
     budget_s=1.0, cache=False, open_bench=Bench, log=TuningLog(Path({log!r})))
"""


def test_a_run_that_is_really_killed_goes_on(model, tmp_path):
    """SIGKILL to a process that tunes with real workers; what it has measured is not measured again."""
    path = tmp_path / "t.jsonl"
    script = SCRIPT.format(
        source=str(Path(raceline.__file__).parents[1]), tests=str(Path(__file__).parents[1]),
        folder=str(tmp_path), log=str(path),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE)
    began_s = time.monotonic()
    while not path.exists() or path.read_bytes().count(b'"do":"time"') < 6:
        assert process.poll() is None and time.monotonic() - began_s < 60, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.wait()
    process.stderr.close()
    known = read_log(path)
    assert not known.ended

    asked = []

    class Watched(Bench):
        def time(self, candidate, calls, *, warm=True):
            asked.append((candidate, calls, warm))
            return super().time(candidate, calls, warm=warm)

    log = TuningLog(path)
    profile = tune(
        model, model, MACHINE, shapes=SHAPES, batches=(1, 2), threads=(1,), engine_names=["honest", "moody"],
        budget_s=1.0, cache=False, open_bench=Watched, log=log,
    )  # fmt: skip
    told = read_log(path)
    assert "resumed" in log.notes[0] and told.ended and told.events[: len(known.events)] == known.events
    new = [e for e in told.events[len(known.events) :] if e.do == "time"]
    assert [(e.candidate, e.calls, e.warm) for e in new] == asked
    firsts = {e.candidate for e in known.events if e.do == "time" and e.number < 0}
    assert firsts and not firsts & {e.candidate for e in new if e.number < 0}, "none is entered twice"
    assert profile.best().candidate.engine in {"honest", "moody"}


def test_the_lock_is_gone_with_its_process(tmp_path):
    path = tmp_path / "t.jsonl"
    held = LogFile(path)
    with pytest.raises(BlockingIOError):
        LogFile(path)
    held.close()
    again = os.open(path, os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(again)


def test_a_log_that_does_not_exist_cannot_be_replayed(model, tmp_path):
    with pytest.raises(ConfigError, match="there is no log"):
        tuned(model, TuningLog(replay=tmp_path / "nowhere.jsonl"))


def test_a_full_disk_under_the_cache_costs_the_log_and_not_the_run(model, monkeypatch, tmp_path):
    def full(self, head):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LogFile, "write", full)
    log = TuningLog()
    _, profile = tuned(model, log, cache=True)
    assert profile.best() and "No space left on device" in log.notes[0]
    with pytest.raises(ConfigError, match=r"cannot be written: No space.*--log"):
        tuned(model, TuningLog(tmp_path / "here.jsonl"))
