"""Two engines share a model: the same numbers, and every edge told."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from engine_doubles import add_engines, net

from raceline import engines
from raceline.convert import differences, verify
from raceline.convert.example import model_from_text
from raceline.core.errors import BadModelError, ConfigError, InvariantError, UnknownNameError
from raceline.engines import Options
from raceline.ir import Bundle, Candidate, Measurement, Profile, make_inputs, run_reference, structural_sha256
from raceline.ir.probe import describe
from raceline.serve import Repository, Server

PAIRS = [("onnxruntime", "openvino"), ("openvino", "mnn"), ("mnn", "onnxruntime"), ("reference", "openvino")]


@pytest.fixture
def model(tmp_path):
    return net(tmp_path)


def assert_right(name, model, session, items, seed=0):
    inputs = make_inputs(model.signature, {"x": (items, 3, 8, 8)}, seed=seed)
    expected, found = run_reference(model, inputs), session.run(inputs)
    assert list(found) == list(expected)
    for difference in differences(expected, found, engines.load(name).tolerance):
        assert difference.ok, difference


@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "open"])
@pytest.mark.parametrize("first, second", PAIRS)
@pytest.mark.parametrize("value", ["c1", "s2"])
def test_both_parts_together_compute_the_model(model, first, second, value, fixed):
    name = engines.recipe(first, second, value)
    session = engines.load(name).load(model, Options(shapes={"x": (3, 3, 8, 8)} if fixed else {}))
    for items in (3, 3) if fixed else (1, 4):
        assert_right(name, model, session, items)
    kinds = [type(part.session).__module__.rpartition(".")[2] for part in session._parts]
    assert kinds == [first, second]
    assert session.memory_bytes() >= 0
    session.close()
    session.close()
    with pytest.raises(InvariantError):
        session.run({})


def test_branches_and_skips_cross(tmp_path):
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, bool more, float[4, 4] w) => (float[N, 4] y, float[N, 4] early) {
            early = MatMul(x, w) h = Relu(early) s = Sigmoid(h)
            y = If (more) < then_branch = t () => (float[N, 4] p) { p = Mul(s, h) },
                            else_branch = e () => (float[N, 4] q) { q = Sub(s, x) } >
        }""",
        w=(4, 4),
    )
    name = engines.recipe("openvino", "onnxruntime", "s")
    session = engines.load(name).load(model, Options())
    for more in (True, False):
        inputs = {"x": np.float32([[1, -2, 3, -4]]), "more": np.array(more)}
        expected = run_reference(model, inputs)
        for difference in differences(expected, session.run(inputs), engines.load(name).tolerance):
            assert difference.ok, difference
    session.close()


def test_batches_in_chunks_and_streams(model):
    name = engines.recipe("onnxruntime", "openvino", "r1")
    session = engines.prepare(model, Candidate(name, batch=7, streams=2, chunk=2), {"x": (1, 3, 8, 8)})
    for items in (7, 1):
        assert_right(name, model, session, items)
    session.close()
    session = engines.load(name).load(model, Options(streams=2))
    start = threading.Barrier(4)

    def ask(client):
        start.wait()
        for items in (1, 3, 2):
            assert_right(name, model, session, items, seed=client)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    session.close()


def test_it_is_an_engine_like_any_other():
    name = engines.recipe("mnn", "openvino", "a>b@c\nd")
    engine = engines.load(name)
    assert engine.tolerance == engines.load("mnn").tolerance  # the looser one's
    assert engine.version() == f"{engines.load('mnn').version()} and {engines.load('openvino').version()}"
    assert "a>b@c\nd" in engine.description and not any(">" in known for known in engines.names())
    assert len(str(Candidate(engines.recipe("mnn", "openvino", "long/" * 100)))) < 100


NO_RECIPES = "mnn> mnn>openvino mnn>openvino@ >openvino@x warp>mnn@x mnn>mnn>mnn@x mnn>../secret@x".split()


@pytest.mark.parametrize("name", NO_RECIPES)
def test_what_is_no_recipe_is_an_unknown_engine(name):
    with pytest.raises(UnknownNameError, match="openvino"):
        engines.load(name)


def test_places_that_do_not_suit_are_refused(model):
    with pytest.raises(BadModelError, match="'nowhere'"):
        engines.load("mnn>openvino@nowhere").load(model, Options())
    with pytest.raises(BadModelError, match="nothing is left"):
        engines.load("mnn>openvino@y").load(model, Options())
    with pytest.raises(ConfigError, match="int4"):
        engines.load("onnxruntime>openvino@r1").load(model, Options(precision="int4"))


def test_a_first_part_is_freed_where_the_second_is_refused(model, monkeypatch):
    add_engines(monkeypatch)
    closed = []
    monkeypatch.setattr("raceline.engines._double.Session.close", lambda session: closed.append(session))
    with pytest.raises(BadModelError):
        engines.load("honest>refusing@r1").load(model, Options())
    assert len(closed) == 1


def test_a_bundle_whose_profile_names_a_recipe_is_served_and_proven(model, tmp_path):
    name = engines.recipe("onnxruntime", "openvino", "s2")
    rows = tuple(Measurement(Candidate(name, batch=batch), latency_s=0.001, runs=9) for batch in (1, 8))
    profile = Profile(describe().key, structural_sha256(model), {"x": (1, 3, 8, 8)}, rows)
    assert Profile.from_json(profile.to_json()) == profile
    Bundle.write(tmp_path / "net", model, profile=profile)
    bundle = Bundle.open(tmp_path / "net")
    assert bundle.profile == profile
    assert verify(model, bundle.model, Candidate(name), [{"batch": 1}, {"batch": 3}], seeds=(0,)).ok
    repository = Repository([tmp_path / "net"])
    with Server(repository).background():
        loaded = repository.live("net").loaded
        assert (loaded.choice.engine, loaded.choice.max_batch) == (name, 8)
        for items in (1, 5):
            assert_right(name, model, loaded.session, items)


def test_a_first_divergence_is_found_in_a_recipe(model, monkeypatch):
    add_engines(monkeypatch)
    found = verify(model, model, Candidate("honest>lying@r1"), [{"batch": 2}], seeds=(0,))
    assert not found.ok and found.divergence is not None
    assert "conv2" in str(found.divergence)
