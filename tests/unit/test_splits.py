"""Splits between engines: proposed where measured parts promise a gain, chosen only where the race confirms it."""

from contextlib import contextmanager

import numpy as np
import pytest
from engine_doubles import MACHINE, SHAPES, add_engines, net

from raceline import engines
from raceline.convert import Bench, tune
from raceline.convert.example import model_from_text
from raceline.convert.measure import Timing
from raceline.convert.splits import Splits, rivals
from raceline.core.clock import ManualClock
from raceline.core.errors import BadModelError
from raceline.ir import Candidate, make_inputs
from raceline.ir.reference import Reference

NODES = 6  # of the net: conv1 relu1 conv2 sigmoid2 flatten dense
QUICK_HEAD = {"honest": [1, 1, 4, 4, 0, 2], "moody": [4, 4, 1, 1, 0, 2]}  # milliseconds of each node
EQUAL = {"honest": [2] * NODES, "moody": [2] * NODES}
WEIGHTS_STAY = 0.7  # a part alone takes so much of its time in the whole


class PartTrack:
    """A bench where every node takes an engine a given time, and loading some; nothing is really loaded."""

    def __init__(self, costs, *, alone=1.0, crossing_ms=0.0, load_s=0.0, wrong=(), refused=()):
        self.costs, self.alone, self.crossing_ms, self.load_s = costs, alone, crossing_ms, load_s
        self.wrong, self.refused = wrong, refused
        self.clock, self.loaded, self.cuts = ManualClock(), [], []

    @contextmanager
    def __call__(self, models, shapes):
        self.models, self.shapes = models, shapes
        self.references = {name: Reference(model) for name, model in models.items()}
        yield self
        assert not self.loaded, "what was loaded is dropped again"

    def cut(self, variant, start, stop):
        self.cuts.append((start, stop))
        return f"{variant}[{start}:{stop}]"

    def load(self, candidate):
        if candidate.engine in self.refused and "[" in candidate.variant:
            raise BadModelError("no parts for me")
        if candidate not in self.loaded:
            self.clock.sleep_s(self.load_s)
            self.loaded.append(candidate)
        return 1 << 20

    def seconds(self, candidate):
        _, part, places = candidate.variant.partition("[")
        if part:
            start, stop = map(int, places.rstrip("]").split(":"))
            return self.alone * sum(self.costs[candidate.engine][start:stop]) / 1e3 + self.crossing_ms / 2e3
        first, pair, rest = candidate.engine.partition(">")
        if not pair:
            return sum(self.costs[first]) / 1e3
        second, _, value = rest.partition("@")
        place = ["c1", "r1", "c2", "s2", "f"].index(value) + 1
        apart = sum(self.costs[first][:place]) + sum(self.costs[second][place:])
        return (apart + self.crossing_ms) / 1e3

    def time(self, candidate, calls, *, warm=True):
        self.load(candidate)
        seconds = self.seconds(candidate)
        self.clock.sleep_s(seconds * calls)
        return Timing((seconds,) * calls, (False,) * calls)

    def compute(self, candidate, *, seed):
        model = self.models[candidate.variant]
        full = engines.batched(model.signature, self.shapes, candidate.batch)
        outputs = self.references[candidate.variant].run(make_inputs(model.signature, full, seed=seed))
        off = any(name in candidate.engine for name in self.wrong)
        return {name: array + off for name, array in outputs.items()}

    def drop(self, candidate):
        if candidate in self.loaded:
            self.loaded.remove(candidate)

    def tune(self, model, **kwargs):
        settings = {"shapes": SHAPES, "threads": (1,), "batches": (1,), "cache": False, "budget_s": 30.0}
        names = ["honest", "moody"]
        return tune(model, model, MACHINE, open_bench=self, clock=self.clock, engine_names=names,
                    **{**settings, **kwargs})  # fmt: skip


@pytest.fixture(autouse=True)
def doubles(monkeypatch):
    add_engines(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


def split_rows(profile):
    return [row for row in profile.measurements if ">" in row.candidate.engine]


def test_the_better_engine_of_each_part_wins_together(model):
    track = PartTrack(QUICK_HEAD)
    profile = track.tune(model)
    assert profile.best().candidate == Candidate("honest>moody@r1")
    assert profile.best().latency_s == pytest.approx(0.006, rel=0.01)
    assert len(split_rows(profile)) == 2  # not every one that was predicted
    assert all(first == 0 or stop == NODES for first, stop in track.cuts)


def test_each_number_of_threads_gets_the_split(model):
    profile = PartTrack(QUICK_HEAD).tune(model, threads=(1, 2))
    assert {row.candidate.threads for row in split_rows(profile)} == {1, 2}


def test_nothing_is_raced_where_nothing_is_predicted(model):
    for track in (PartTrack(EQUAL), PartTrack(QUICK_HEAD, crossing_ms=9.0)):
        profile = track.tune(model)
        assert track.cuts and not split_rows(profile)


def test_parts_that_are_quick_because_their_weights_stay_in_the_cache_promise_nothing(model):
    track = PartTrack(EQUAL, alone=WEIGHTS_STAY)
    assert not split_rows(track.tune(model)) and track.cuts


def test_an_engine_far_behind_is_no_partner(model):
    track = PartTrack({"honest": [1] * NODES, "moody": [0.5, 9, 9, 9, 9, 9]})
    track.tune(model)
    assert not track.cuts


def test_an_engine_that_refuses_parts_is_no_partner(model):
    track = PartTrack(QUICK_HEAD, refused=["moody"])
    profile = track.tune(model)
    assert track.cuts and not split_rows(profile)
    assert profile.best().candidate.engine in {"honest", "moody"}


def test_a_split_that_lies_cannot_win(model):
    profile = PartTrack(QUICK_HEAD, wrong=[">"]).tune(model)
    assert split_rows(profile)
    assert all("wrong numbers" in row.failure for row in split_rows(profile))
    assert ">" not in profile.best().candidate.engine


def test_a_liar_is_no_partner(model):
    track = PartTrack(QUICK_HEAD, wrong=["moody"])
    assert track.tune(model).best().candidate.engine == "honest"
    assert not track.cuts


def test_a_split_that_is_slower_than_predicted_is_not_chosen(model):
    class Disappointing(PartTrack):
        def seconds(self, candidate):
            return super().seconds(candidate) * (3 if ">" in candidate.engine else 1)

    profile = Disappointing(QUICK_HEAD).tune(model)
    assert split_rows(profile) and ">" not in profile.best().candidate.engine


@pytest.mark.parametrize("load_s, most", [(0.1, 5), (0.5, 2), (3.0, 0)])
def test_the_search_keeps_to_its_share_of_the_time(model, load_s, most):
    """A cut costs four loads; what would go beyond 15 % of the time is not begun."""
    track = PartTrack(QUICK_HEAD, load_s=load_s)
    with track({"optimised": model}, SHAPES) as bench:
        whole = [Candidate("honest"), Candidate("moody")]
        for candidate in whole:
            bench.load(candidate)
        search = Splits(bench, track.clock, whole, 0.15 * 30.0, longest_s=2 * load_s)
        start_s = track.clock.now_s()
        search.propose()
        assert len(track.cuts) <= 2 * most and bool(track.cuts) == bool(most)
        assert track.clock.now_s() - start_s <= 4.5 + 2 * load_s
        for candidate in whole:
            bench.drop(candidate)


def test_rivals_are_like_the_fastest_but_for_the_engine():
    best = Candidate("a")
    seconds = {
        best: 1.0,
        Candidate("b"): 1.2,
        Candidate("c"): 1.5,
        Candidate("d", variant="source"): 1.1,
        Candidate("e", threads=2): 0.7,
        Candidate("f", batch=1, chunk=1): 0.9,
    }
    assert rivals(seconds) == [best, Candidate("b")]
    assert rivals({best: 1.0}) == [] and rivals({}) == []


def test_a_model_without_a_cut_is_left_alone():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]> main (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""
    )
    track = PartTrack({"honest": [1.0], "moody": [1.0]})
    assert not split_rows(track.tune(model, shapes={"x": (1, 4)})) and not track.cuts


def test_parts_are_measured_in_real_workers(model):
    with Bench({"optimised": model}, SHAPES) as bench:
        whole = [Candidate("onnxruntime", batch=8), Candidate("openvino", batch=8)]
        search = Splits(bench, ManualClock(), whole, 1.0)
        search.propose()
        assert {f.candidate.engine.partition("@")[0] for f in search.forecasts} == {
            "onnxruntime>openvino", "openvino>onnxruntime"
        }  # fmt: skip
        assert all(f.predicted_s > 0 and f.gain > 0 and f.candidate.batch == 8 for f in search.forecasts)
        part = Candidate("openvino", batch=8, variant=bench.cut("optimised", 0, 2))
        assert [array.shape for array in bench.compute(part).values()] == [(8, 8, 8, 8)]
        recipe = Candidate(engines.recipe("onnxruntime", "openvino", "r1"), batch=8)
        found = bench.compute(recipe)["y"]
    full = engines.batched(model.signature, SHAPES, 8)
    expected = Reference(model).run(make_inputs(model.signature, full, seed=0))["y"]
    assert abs(found - expected).max() < 1e-4


class Chain(PartTrack):
    """Sixteen like nodes; one engine is quick on the first eleven, the other on the rest."""

    def seconds(self, candidate):
        first, pair, rest = candidate.engine.partition(">")
        if not pair:
            return super().seconds(candidate)
        second, _, value = rest.partition("@")
        place = int(value.removeprefix("h"))
        return (sum(self.costs[first][:place]) + sum(self.costs[second][place:])) / 1e3


def test_few_cuts_find_the_best_place_by_refining():
    size, best = 16, 11
    body = " ".join(f"h{i + 1} = MatMul(h{i}, w)" for i in range(size - 1))
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]> main (float[N, 8] h0, float[8, 8] w) => (float[N, 8] y)
        {{ {body} y = MatMul(h{size - 1}, w) }}""",
        w=np.eye(8, dtype=np.float32),
    )
    costs = {"honest": [1.0] * best + [4.0] * (size - best), "moody": [4.0] * best + [1.0] * (size - best)}
    track = Chain(costs, load_s=0.2)
    with track({"optimised": model}, {"h0": (1, 8)}) as bench:
        search = Splits(bench, track.clock, [Candidate("honest"), Candidate("moody")], budget_s=12.0)
        proposed = search.propose()
        for candidate in list(track.loaded):
            bench.drop(candidate)
    assert proposed[0].engine == f"honest>moody@h{best}"
    assert len(track.cuts) <= 2 * 6, "without refining it is the thirteenth"
