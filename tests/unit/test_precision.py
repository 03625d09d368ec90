"""Fewer bits in the tuner: chosen only where they are faster and accurate enough, and said so."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from engine_doubles import MACHINE, SHAPES, Track, add_engines, net

from raceline.convert import RecipeBook, quantise, reduce, verify_accuracy
from raceline.convert.measure import Bench
from raceline.convert.precision import Admission, Reduced, Way
from raceline.convert.quantise.calibrate import observe
from raceline.convert.tune import tune
from raceline.core.errors import BackendLostError, BadModelError, ShapeError
from raceline.ir import Accuracy, Candidate, Measurement, Profile, run_reference, structural_sha256
from raceline.ir.platform import EngineChoice

INT8 = "int8-honest"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))
    add_engines(monkeypatch)


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


def data(items=16, seed=0):
    return np.random.default_rng(seed).standard_normal((items, 3, 8, 8)).astype(np.float32)


def samples(model, items=16):
    return quantise.from_arrays(model.signature, {"x": data(items)}, batch=4)


def by_reference(model, engine, samples, precision="fp32"):
    return [run_reference(model, call) for call in samples.full_batches(samples.batch)]


def reduced(model, drop=0.05):
    """A quantised graph for the engine "honest", judged by other items than it was calibrated on."""
    seen, judged = samples(model).split()
    judge = quantise.Judge(model, judged, quantise.Budget(drop=drop), run=by_reference)
    scheme = quantise.Scheme(results=False)
    planned = quantise.plan(model, scheme)
    made = quantise.quantise(planned, observe(planned.model, seen, planned.values), scheme)
    return Reduced((Way("honest", "int8", INT8, made),), judge, key=f"{drop}")


def raced(model, ratio, drop=0.05, **settings):
    """The profile of a race in which 8 bits take `ratio` of the time."""
    track = Track(lambda c: 0.010 * c.batch * (ratio if c.precision == "int8" else 1.0))
    found = track.tune(model, model, reduced=reduced(model, drop), engine_names=["honest"], **settings)
    return track, found


def rows_of(profile, precision):
    return [row for row in profile.measurements if row.candidate.precision == precision]


def test_fewer_bits_win_where_they_are_faster_and_accurate(model):
    _, profile = raced(model, 0.5)
    for batch in (1, 8):
        best = profile.best(batch=batch)
        assert (best.candidate.precision, best.candidate.variant) == ("int8", INT8)
        assert best.accuracy.metric == "fidelity" and 0 < best.accuracy.drop <= 0.05
        assert best.accuracy.items == 8 and best.accuracy.origin == "arrays"
    assert all(row.accuracy is None for row in rows_of(profile, "fp32"))
    assert Profile.from_json(profile.to_json()) == profile


@pytest.mark.parametrize("ratio", [0.995, 1.0, 1.3])
def test_they_lose_where_they_are_not_clearly_faster(model, ratio):
    _, profile = raced(model, ratio, batches=(1,))
    assert profile.best().candidate.precision == "fp32"
    assert all(not row.failure for row in rows_of(profile, "int8")), "they were measured all the same"


def test_they_lose_where_too_much_is_lost(model):
    track, profile = raced(model, 0.1, drop=0.0)
    assert profile.best().candidate.precision == "fp32"
    for row in rows_of(profile, "int8"):
        assert "not within the accuracy budget" in row.failure and row.accuracy.drop > 0
    assert not any(candidate.precision == "int8" for candidate in track.timed)


def test_full_precision_of_the_same_graph_is_not_condemned_with_them(model):
    """bf16 runs the graph that fp32 runs: only the former fails."""
    base = reduced(model, drop=0.0)
    ways = (Way("honest", "bf16", "optimised", model),)
    track = Track(lambda c: 0.01)
    right = track.answer
    track.answer = lambda c, calls: [{"y": out["y"] * 1.1} for out in right(c, calls)]
    profile = track.tune(
        model, model, reduced=replace(base, ways=ways), engine_names=["honest"], batches=(1,)
    )
    assert {row.candidate.precision for row in profile.usable()} == {"fp32"}
    assert all("accuracy budget" in row.failure for row in rows_of(profile, "bf16"))


def test_another_number_of_threads_must_compute_the_same(model):
    found = reduced(model)
    track = Track(lambda c: 0.01)
    right = track.answer
    track.answer = lambda c, calls: [
        {"y": out["y"] * (1.0 if c.threads == 1 else -1.0)} for out in right(c, calls)
    ]
    profile = track.tune(model, model, reduced=found, engine_names=["honest"], batches=(1,))
    failed = {row.candidate.threads for row in rows_of(profile, "int8") if row.failure}
    assert failed == {2}
    assert all("what the same graph gave before" in r.failure for r in rows_of(profile, "int8") if r.failure)


def test_the_cache_knows_the_budget(model):
    track, _ = raced(model, 0.5, cache=True)
    again, _ = raced(model, 0.5, cache=True)
    other, _ = raced(model, 0.5, cache=True, drop=0.04)
    assert (track.opened, again.opened, other.opened) == (1, 0, 1)


def test_usable_rows_are_worth_their_bits():
    accuracy = Accuracy("fidelity", 1.0, 0.99, 10, "x.npz")

    def row(seconds, precision="fp32", threads=1, batch=1):
        candidate = Candidate("a", precision, threads=threads, batch=batch, variant=precision)
        return Measurement(candidate, seconds, seconds, accuracy=None if precision == "fp32" else accuracy)

    rows = (
        row(0.10), row(0.06, threads=2), row(0.07, "int8"), row(0.07, "int8", threads=2), row(0.9, "int8", batch=8),
    )  # fmt: skip
    profile = Profile("p", "m", {"x": (1,)}, rows)
    kept = {(r.candidate.precision, r.candidate.threads, r.candidate.batch) for r in profile.usable()}
    assert kept == {("fp32", 1, 1), ("fp32", 2, 1), ("int8", 1, 1), ("int8", 1, 8)}
    assert profile.without("a", "int8", "no", precision="bf16") == profile
    assert {r.candidate.precision for r in profile.without("a", "int8", "no").usable()} == {"fp32"}


# ---------------------------------------------------------------- making them


def machine(*precisions, sets=("avx2", "avx512_vnni")):
    choices = tuple(EngineChoice(name, "CPU", precisions, "") for name in ("onnxruntime", "openvino"))
    return replace(MACHINE, engines=choices, instruction_sets=sets)


def test_graphs_for_two_engines_come_from_one_calibration(model, monkeypatch):
    import raceline.convert.quantise.mixed as mixed

    calls, real = [], mixed.observe
    monkeypatch.setattr(mixed, "observe", lambda *a, **k: calls.append(a) or real(*a, **k))
    found = reduce(model, samples(model), quantise.Budget(), machine("fp32", "int8"), shapes=SHAPES)
    assert [(way.engine, way.precision, way.variant) for way in found.ways] == [
        ("onnxruntime", "int8", "int8-onnxruntime"),
        ("openvino", "int8", "int8-openvino"),
    ]
    assert len(calls) == 1 and all(way.found.met and way.found.layers == 3 for way in found.ways)
    assert [way.found.scheme.products for way in found.ways] == ["all", "scores"]
    profile = tune(
        model, model, MACHINE, shapes=SHAPES, reduced=found, batches=(1, 4), threads=(1,), budget_s=60.0,
        engine_names=["onnxruntime", "openvino"], open_bench=Bench, cache=False,
    )  # fmt: skip
    eight = rows_of(profile, "int8")
    assert {row.candidate.engine for row in eight if not row.failure} == {"onnxruntime", "openvino"}
    assert all(0.95 < row.accuracy.quantised < 1 for row in eight)


def test_graphs_that_were_found_are_made_again_without_a_search(model, monkeypatch, tmp_path):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path))
    book = RecipeBook()

    def made(book=book, seed=0, drop=0.05, deadline_s=60.0):
        given = quantise.from_arrays(model.signature, {"x": data(16, seed)}, batch=4)
        return reduce(
            model, given, quantise.Budget(drop=drop), machine("fp32", "int8", "bf16"), shapes=SHAPES,
            engine_names=["onnxruntime", "openvino"], book=book, deadline_s=deadline_s,
        )  # fmt: skip

    first = made()
    assert {way.precision for way in first.ways} == {"int8", "bf16"}
    search = quantise.Study.within_budget
    monkeypatch.setattr(quantise.Study, "within_budget", None)
    again = made()
    assert again.key == first.key and again.notes == first.notes and again.recipes == first.recipes
    for one, other in zip(first.ways, again.ways, strict=True):
        assert structural_sha256(one.model) == structural_sha256(other.model)
        assert (one.found and one.found.score) == (other.found and other.found.score)
    shutil.rmtree(tmp_path)
    for deadline_s in (60.0, 30.0):
        found = made(RecipeBook([first.recipes]), deadline_s=deadline_s)
        assert found.key == first.key, "a log may tell them as well, however long it might take"
    calls = []
    monkeypatch.setattr(quantise.Study, "within_budget", lambda *a, **k: calls.append(1) or search(*a, **k))
    for other in ({"seed": 1}, {"drop": 0.06}):
        assert made(**other).key != first.key
    assert calls, "of other data or another budget nothing is known"


@pytest.mark.parametrize("damage", ["{", "[]", "null", '{"key": "x"}', "kept"])
def test_damaged_recipes_are_told_and_searched_anew(model, monkeypatch, tmp_path, caplog, damage):
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path))

    def made():
        return reduce(
            model, samples(model), quantise.Budget(), machine("fp32", "int8"), shapes=SHAPES,
            engine_names=["openvino"], book=RecipeBook(),
        )  # fmt: skip

    first = made()
    (path,) = (tmp_path / "fewer-bits").iterdir()
    known = json.loads(path.read_text())
    known["ways"][0]["kept"] = ["a stranger"]
    path.write_text(json.dumps(known) if damage == "kept" else damage)
    assert made().ways[0].found.kept == first.ways[0].found.kept
    assert "damaged" in caplog.text or "no layers a stranger to keep" in caplog.text


def test_of_many_items_those_that_chose_do_not_judge(model, monkeypatch):
    import raceline.convert.precision as precision

    studies, real = [], precision.Study
    monkeypatch.setattr(precision, "Study", lambda *a, **k: studies.append(a) or real(*a, **k))
    for items, apart in ((512, True), (64, False)):
        found = reduce(
            model, samples(model, items), quantise.Budget(), machine("fp32", "int8"), shapes=SHAPES,
            engine_names=["onnxruntime"],
        )  # fmt: skip
        _, seen, choosing, *_ = studies[-1]
        parts = [{row.tobytes() for row in part.arrays["x"]} for part in (
            seen, choosing.samples, found.judge.samples
        )]  # fmt: skip
        assert not parts[0] & (parts[1] | parts[2])
        assert (not parts[1] & parts[2]) if apart else parts[1] == parts[2]
        assert sum(map(len, parts[:3] if apart else parts[:2])) == items


def test_machines_without_vnni_get_weights_of_seven_bits(model):
    found = reduce(
        model, samples(model), quantise.Budget(), machine("fp32", "int8", sets=("avx2",)), shapes=SHAPES,
        engine_names=["onnxruntime"],
    )  # fmt: skip
    (way,) = found.ways
    weights = [v.const_value.numpy() for v in way.model.program.graph.initializers.values()]
    assert max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8) == 63


def test_what_cannot_be_quantised_stays_and_is_told(model):
    from raceline.convert.example import model_from_text

    plain = model_from_text(
        '<ir_version: 8, opset_import: ["": 17]> net (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    )
    plain = replace(plain, signature=replace(plain.signature, batch_axis="N"))
    few = quantise.from_arrays(plain.signature, {"x": np.ones((8, 3), np.float32)})
    found = reduce(plain, few, quantise.Budget(), machine("int8"), shapes={"x": (1, 3)})
    assert not found.ways and "nothing to quantise" in found.notes[0]


def test_a_budget_that_cannot_be_met_is_a_note_with_the_best_found(model):
    found = reduce(
        model, samples(model), quantise.Budget(drop=0.0), machine("int8"), shapes=SHAPES,
        engine_names=["onnxruntime"],
    )  # fmt: skip
    assert not found.ways
    assert "not within the accuracy budget" in found.notes[0] and "fidelity 1.0000 -> 0.9" in found.notes[0]


def test_an_engine_that_crashes_while_scored_is_a_note(model, monkeypatch):
    real = quantise.Runner.__call__

    def crash(self, model, engine, samples, precision="fp32"):
        if engine == "openvino":
            raise BackendLostError("the worker was killed by SIGSEGV")
        return real(self, model, engine, samples, precision)

    monkeypatch.setattr(quantise.Runner, "__call__", crash)
    found = reduce(model, samples(model), quantise.Budget(), machine("int8"), shapes=SHAPES)
    assert [way.engine for way in found.ways] == ["onnxruntime"] and "SIGSEGV" in found.notes[0]


def test_data_of_another_size_is_told(model):
    with pytest.raises(ShapeError, match="other shapes than the model is tuned for"):
        reduce(model, samples(model), quantise.Budget(), machine("int8"), shapes={"x": (1, 3, 9, 9)})


def test_a_session_is_held_against_the_budget(model):
    class Session:
        closed = 0

        def run(self, inputs):
            return {"y": run_reference(model, inputs)["y"] * 1.02}

        def close(self):
            self.closed += 1

    for drop, ok in ((0.05, True), (0.01, False)):
        session = Session()
        found = verify_accuracy(reduced(model, drop).judge, Candidate("honest", "int8", batch=3), session)
        assert found.ok is ok and session.closed == 1
        assert found.accuracy.quantised == pytest.approx(0.98) and found.allowed_drop == drop
        assert "accuracy budget" in str(found) and found.to_json()["accuracy"]["items"] == 8
        assert type(found).from_json(found.to_json()) == found


def test_an_admission_refuses_what_crashed(model):
    class Lost:
        def answer(self, candidate, calls):
            raise BackendLostError("gone")

    with pytest.raises(BackendLostError):
        Admission(reduced(model).judge).judged(Lost(), Candidate("honest", "int8"))
    with pytest.raises(BadModelError, match="0.3 -> 0.1"):
        Admission(reduced(model).judge).refuse_lossy(Accuracy("0.3 -> 0.1", 0.3, 0.1, 1, ""))
