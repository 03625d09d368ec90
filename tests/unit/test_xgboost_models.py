"""XGBoost models against XGBoost itself: every objective, booster and kind of tree, present and past versions."""

from pathlib import Path

import numpy as np
import pytest

from raceline import engines
from raceline.convert import IRTranslator, optimise
from raceline.convert.readers import xgboost as reader
from raceline.ir import run_reference

xgb = pytest.importorskip("xgboost")

FIXTURES = Path(__file__).parent.parent / "fixtures" / "xgboost"
TOLERANCE = 2e-6  # of the largest magnitude: what summing in another order changes
CLASSES = {"num_class": 3}
ONE_TREE = {"multi_strategy": "multi_output_tree", "tree_method": "hist"}
KINDS = ["q", "q", "c", "q", "q"]


def table(seed=0, rows=300):
    """Five columns, the third holds categories, a tenth of all is missing; and a smooth target."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 5)).astype(np.float32)
    x[:, 2] = random.integers(0, 12, rows)
    x[random.random(x.shape) < 0.1] = np.nan
    y = np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) ** 2 + np.nan_to_num(x[:, 2]) % 3
    return x, y


def trained(parameters, y, rounds=8, kinds=None, **more):
    x, _ = table()
    data = xgb.DMatrix(x, y, feature_types=kinds, enable_categorical=kinds is not None)
    return xgb.train({"max_depth": 4, "verbosity": 0, **parameters}, data, rounds, **more)


def agrees(model, expected, x):
    """The reference, and the optimised model on ONNX Runtime, give what XGBoost gives."""
    session = engines.load("onnxruntime").load(optimise(model)[0], engines.Options())
    for found in (run_reference(model, {"x": x}), session.run({"x": x})):
        assert found["prediction"].shape == expected.shape
        close(found["prediction"], expected)
    for rows in (1, 7):
        close(session.run({"x": x[:rows]})["prediction"], expected[:rows])
    return found


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


_, Y = table()
POSITIVE, YES, CLASS = np.abs(Y) + 0.1, Y > 1, np.digitize(Y, [0.7, 2.0])
TARGETS = np.stack([Y, -Y, Y * Y], 1)

CASES = {
    **{
        objective: ({"objective": objective}, target)
        for target, objectives in (
            (POSITIVE, "reg:squarederror reg:squaredlogerror reg:pseudohubererror reg:absoluteerror reg:gamma"),
            (np.round(POSITIVE), "count:poisson reg:tweedie survival:cox"),
            (YES, "reg:logistic binary:logistic binary:logitraw binary:hinge"),
        )
        for objective in objectives.split()
    },
    "base score of a probability": ({"objective": "binary:logistic", "base_score": 0.2}, YES),
    "base score of a margin": ({"objective": "binary:logitraw", "base_score": 0.2}, YES),
    "base score of a count": ({"objective": "count:poisson", "base_score": 3.0}, np.round(POSITIVE)),
    "several quantiles": ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}, Y),
    "softprob": ({"objective": "multi:softprob", **CLASSES}, CLASS),
    "softmax": ({"objective": "multi:softmax", **CLASSES}, CLASS),
    "several targets": ({}, TARGETS),
    "several labels": ({"objective": "binary:logistic"}, TARGETS > 1),
    "one tree for all targets": (ONE_TREE, TARGETS),
    "one tree for all classes": ({"objective": "multi:softprob", **CLASSES, **ONE_TREE}, CLASS),
    "forest of boosted trees": ({"num_parallel_tree": 5, "subsample": 0.5}, Y),
    "dart": ({"booster": "dart", "rate_drop": 0.5}, Y),
    "dart of classes": ({"booster": "dart", "rate_drop": 0.5, "objective": "multi:softprob", **CLASSES}, CLASS),
    "linear": ({"booster": "gblinear", "objective": "binary:logistic"}, YES),
    "linear of classes": ({"booster": "gblinear", "objective": "multi:softprob", **CLASSES}, CLASS),
    "stumps that are one leaf": ({"gamma": 1e9}, Y),
    "pruned": ({"tree_method": "exact", "gamma": 5.0}, Y),
    "grown by loss": ({"grow_policy": "lossguide", "max_leaves": 20, "max_depth": 0}, Y),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:xgboost.*")
@pytest.mark.parametrize("case", CASES)
def test_it_predicts_as_xgboost(tmp_path, case):
    booster = trained(*CASES[case])
    path = tmp_path / f"model.{'json' if len(case) % 2 else 'ubj'}"
    booster.save_model(path)
    x, _ = table(1)
    agrees(IRTranslator().parse(path), booster.predict(xgb.DMatrix(x)), x)


@pytest.mark.parametrize("onehot", [2, 50])
def test_categories(onehot):
    booster = trained({"max_cat_to_onehot": onehot}, Y, kinds=KINDS)
    x, _ = table(1)
    x[:6, 2] = [40, 3.7, -1, -0.5, np.nan, 1e6]  # never seen, between two, none at all
    expected = booster.predict(xgb.DMatrix(x, feature_types=KINDS, enable_categorical=True))
    agrees(reader.read_object(booster), expected, x)


@pytest.mark.parametrize("objective", ["pairwise", "ndcg"])
def test_ranking(objective):
    x, y = table()
    data = xgb.DMatrix(x, np.digitize(y, [0.7, 2.0]))
    data.set_group([100, 100, 100])
    booster = xgb.train({"objective": f"rank:{objective}", "verbosity": 0}, data, 5)
    agrees(reader.read_object(booster), booster.predict(xgb.DMatrix(x)), x)


def test_survival():
    x, y = table()
    data = xgb.DMatrix(x)
    data.set_float_info("label_lower_bound", np.abs(y) + 0.1)
    data.set_float_info("label_upper_bound", np.abs(y) * 1.5 + 0.1)
    booster = xgb.train({"objective": "survival:aft", "verbosity": 0}, data, 5)
    agrees(reader.read_object(booster), booster.predict(xgb.DMatrix(x)), x)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.[uj]*")), ids=lambda path: path.stem)
def test_what_older_versions_wrote(path):
    """The newest XGBoost crashes on some of them, so what the older ones predicted is kept beside them."""
    truth = np.load(path.with_suffix(".npz"))
    agrees(reader.read(path), truth["prediction"], truth["x"])


@pytest.mark.parametrize("classes", [2, 3])
def test_classifiers_give_labels_and_probabilities(tmp_path, classes):
    x, y = table()
    model = xgb.XGBClassifier(n_estimators=8, max_depth=3).fit(x, np.digitize(y, [0.7, 2.0]) % classes)
    path = tmp_path / "model.ubj"
    model.save_model(path)
    for read in (reader.read(path), reader.read_object(model)):
        found = agrees(read, model.get_booster().predict(xgb.DMatrix(x)), x)
        np.testing.assert_array_equal(found["label"], model.predict(x))
        close(found["probabilities"], model.predict_proba(x))


def test_early_stopping(tmp_path):
    x, y = table()
    noise = np.random.default_rng(5).normal(size=len(y))
    model = xgb.XGBRegressor(n_estimators=60, early_stopping_rounds=3).fit(
        x, y + noise, eval_set=[(x[:60], y[:60] - noise[:60])], verbose=False
    )
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    path = tmp_path / "model.json"
    model.save_model(path)
    best, everything = model.predict(x), model.get_booster().predict(xgb.DMatrix(x))
    assert np.abs(best - everything).max() > 1e-3
    agrees(reader.read(path), best, x)
    agrees(reader.read_object(model), best, x)
    agrees(reader.read(path, best_iteration=False), everything, x)
    agrees(reader.read_object(model.get_booster()), everything, x)
    agrees(reader.read_object(model.get_booster(), best_iteration=True), best, x)
    assert any("best" in step for step in reader.read(path).provenance.steps)


def test_another_value_for_what_is_missing(tmp_path):
    x, y = table()
    x = np.nan_to_num(x, nan=-999.0)
    model = xgb.XGBRegressor(n_estimators=8, missing=-999.0).fit(x, y)
    agrees(reader.read_object(model), model.predict(x), x)
    path = tmp_path / "model.json"
    model.save_model(path)
    agrees(reader.read(path, missing=-999.0), model.predict(x), x)


def test_it_takes_boosters_and_nothing_else():
    booster = trained({}, Y, 1)
    assert reader.takes(booster) and reader.takes(xgb.XGBClassifier())
    assert not reader.takes(object()) and not reader.takes(xgb.DMatrix(np.zeros((1, 1))))
    assert IRTranslator().parse(booster).provenance.source_format == "xgboost"
