"""Pinned threads: each on a core of its own, where that is measured to be faster."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_doubles import SHAPES, Track, add_engines, net

from raceline import engines
from raceline.core.errors import ConfigError
from raceline.engines import Options, _pinning
from raceline.ir import Candidate, Measurement, Profile, make_inputs
from raceline.ir.host import usable_cpus
from raceline.serve.loading import Settings, choose

TWO_CORES = pytest.mark.skipif(len(usable_cpus()) < 2, reason="one core")
PINNED = Options(threads=2, shapes=SHAPES, pinned=True)


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


def masks():
    """Thread -> the CPUs that it may run on."""
    return {
        int(task.name): os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()
    }


@TWO_CORES
@pytest.mark.parametrize("name", ["onnxruntime", "native", "mnn", "openvino"])
def test_every_engine_computes_the_same_on_pinned_threads(model, name):
    inputs = make_inputs(model.signature, SHAPES, seed=0)
    mask = os.sched_getaffinity(0)
    found = []
    for options in (replace(PINNED, pinned=False), PINNED):
        session = engines.load(name).load(model, options)
        found.append(session.run(inputs)["y"])
        session.close()
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)
    assert os.sched_getaffinity(0) == mask


@TWO_CORES
@pytest.mark.parametrize("name", ["onnxruntime", "native"])
def test_helpers_begin_on_cores_of_their_own(model, name):
    before = masks()
    session = engines.load(name).load(model, PINNED)
    begun = [mask for task, mask in masks().items() if task not in before]
    assert {usable_cpus()[1]} in begun
    assert masks()[os.getpid()] == before[os.getpid()]
    session.close()


def test_more_pinned_threads_than_cores_are_refused(model, monkeypatch):
    monkeypatch.setattr(_pinning, "usable_cpus", lambda: [0])
    with pytest.raises(ConfigError, match="2 threads cannot be pinned"):
        engines.load("onnxruntime").load(model, PINNED)


def test_a_refused_load_frees_the_callers_thread_too():
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), _pinning.own_cores(replace(PINNED, threads=len(usable_cpus()))):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(("gain", "chosen"), [(0.9, True), (0.99, False), (1.1, False)])
def test_pinning_is_chosen_where_it_is_clearly_faster(model, monkeypatch, tmp_path, gain, chosen):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))
    add_engines(monkeypatch)
    track = Track(lambda c: 0.01 * c.batch / c.threads**0.9 * (gain if c.pinned else 1.0))
    profile = track.tune(model, model, engine_names=["honest"], batches=(1,))
    best = profile.best(threads=2).candidate
    assert (best.threads, best.pinned) == (2, chosen)
    assert not profile.best(threads=1).candidate.pinned


def test_only_threads_of_one_call_are_pinned():
    for wrong in ({"threads": 1}, {"threads": 2, "streams": 2, "batch": 2}):
        with pytest.raises(ConfigError, match="only the threads of one call"):
            Candidate("a", pinned=True, **wrong)


def test_profiles_of_before_are_read():
    row = Measurement(Candidate("a", threads=2), 0.1, 0.1)
    data = Profile("p", "m", {"x": (1,)}, (row,)).to_json()
    assert "pinned" not in data["measurements"][0]["candidate"]
    assert Profile.from_json(data).best() == row


def test_a_server_pins_what_was_measured_so_and_nothing_else():
    rows = (
        Measurement(Candidate("a", threads=2), 0.1, 0.1),
        Measurement(Candidate("a", threads=2, pinned=True), 0.05, 0.05),
    )
    profile = Profile("p", "m", {"x": (1,)}, rows)
    found = choose(profile, Settings(), batched=True, cores=2)
    assert found.pinned and "2 pinned threads" in str(found)
    assert not choose(profile, Settings(), batched=False, cores=4).pinned  # two workers would share the cores
    assert not choose(profile, Settings(threads=1), batched=True, cores=2).pinned
