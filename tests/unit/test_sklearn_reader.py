"""scikit-learn estimators on the data sets that scikit-learn carries, against their own predictions."""

import pickle  # noqa: TID251  to make the files that must be refused
import zipfile

import numpy as np
import pytest

from raceline import engines
from raceline.convert import IRTranslator, optimise
from raceline.convert.readers import sklearn as reader
from raceline.core.errors import BadModelError, RacelineError
from raceline.ir import Limits, run_reference

pytest.importorskip("skl2onnx")
skops_io = pytest.importorskip("skops.io")

from sklearn import (  # noqa: E402
    cluster,
    compose,
    datasets,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    linear_model,
    mixture,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # skl2onnx and scikit-learn announce their next versions
FLOWERS = datasets.load_iris(return_X_y=True)
PATIENTS = tuple(array[:120] for array in datasets.load_diabetes(return_X_y=True))
FEW = {"n_estimators": 5, "random_state": 0}

CLASSIFIERS = {
    "logistic": linear_model.LogisticRegression(max_iter=500),
    "sgd": linear_model.SGDClassifier(random_state=0),
    "svc": svm.SVC(),
    "linear svc": svm.LinearSVC(),
    "linear svc in a pipeline": pipeline.make_pipeline(preprocessing.StandardScaler(), svm.LinearSVC()),
    "qda": discriminant_analysis.QuadraticDiscriminantAnalysis(),
    "one versus one": multiclass.OneVsOneClassifier(linear_model.LogisticRegression(max_iter=300)),
    "tree": tree.DecisionTreeClassifier(random_state=0),
    "forest": ensemble.RandomForestClassifier(**FEW),
    "extra trees": ensemble.ExtraTreesClassifier(**FEW),
    "boosting": ensemble.GradientBoostingClassifier(**FEW),
    "histogram boosting": ensemble.HistGradientBoostingClassifier(max_iter=3),
    "adaboost": ensemble.AdaBoostClassifier(**FEW),
    "bagging": ensemble.BaggingClassifier(random_state=0),
    "neighbours": neighbors.KNeighborsClassifier(),
    "gaussian bayes": naive_bayes.GaussianNB(),
    "multinomial bayes": naive_bayes.MultinomialNB(),
    "perceptron": neural_network.MLPClassifier((8,), max_iter=200, random_state=0),
    "lda": discriminant_analysis.LinearDiscriminantAnalysis(),
    "vote": ensemble.VotingClassifier(
        [("a", linear_model.LogisticRegression(max_iter=500)), ("b", naive_bayes.GaussianNB())],
        voting="soft", flatten_transform=False,
    ),
    "stack": ensemble.StackingClassifier(
        [("a", naive_bayes.GaussianNB()), ("b", tree.DecisionTreeClassifier(max_depth=3, random_state=0))]
    ),
    "pipeline": pipeline.make_pipeline(
        preprocessing.StandardScaler(), decomposition.PCA(2), linear_model.LogisticRegression()
    ),
}  # fmt: skip
REGRESSORS = {
    "linear": linear_model.LinearRegression(),
    "ridge": linear_model.Ridge(),
    "lasso": linear_model.Lasso(),
    "svr": svm.SVR(),
    "tree": tree.DecisionTreeRegressor(max_depth=6, random_state=0),
    "forest": ensemble.RandomForestRegressor(**FEW),
    "boosting": ensemble.GradientBoostingRegressor(**FEW),
    "histogram boosting": ensemble.HistGradientBoostingRegressor(max_iter=4),
    "neighbours": neighbors.KNeighborsRegressor(),
    "perceptron": neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=50, random_state=0),
    "gaussian process": gaussian_process.GaussianProcessRegressor(alpha=0.5),
    "vote": ensemble.VotingRegressor([("a", linear_model.Ridge()), ("b", svm.SVR())]),
}
TRANSFORMERS = {
    "standard": preprocessing.StandardScaler(),
    "minmax": preprocessing.MinMaxScaler(),
    "robust": preprocessing.RobustScaler(),
    "normalizer": preprocessing.Normalizer(),
    "polynomial": preprocessing.PolynomialFeatures(),
    "power": preprocessing.PowerTransformer(),
    "bins": preprocessing.KBinsDiscretizer(encode="ordinal"),
    "pca": decomposition.PCA(2),
    "svd": decomposition.TruncatedSVD(2),
    "select": feature_selection.SelectKBest(k=2),
    "impute": impute.SimpleImputer(),
    "impute by neighbours": impute.KNNImputer(),
}


def computed(model, **feeds):
    """The outputs on the reference and, optimised, on ONNX Runtime; both must agree."""
    found = run_reference(model, feeds)
    session = engines.load("onnxruntime").load(optimise(model)[0], engines.Options())
    for name, array in session.run(feeds).items():
        if array.dtype.kind == "f":
            close(array, found[name])
        else:
            assert (array == found[name]).all()
    return found


def close(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def fitted(estimator, data):
    x, y = data
    x = x.astype(np.float32)
    return estimator.fit(x, y), x[::11]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name):
    estimator, x = fitted(CLASSIFIERS[name], FLOWERS)
    found = computed(IRTranslator().parse(estimator), x=x)
    labels = found["label"].reshape(-1) if name == "one versus one" else found["label"]
    np.testing.assert_array_equal(labels, estimator.predict(x))
    if hasattr(estimator, "predict_proba"):
        close(found["probabilities"], estimator.predict_proba(x))


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name):
    estimator, x = fitted(REGRESSORS[name], PATIENTS)
    (found,) = computed(IRTranslator().parse(estimator), x=x).values()
    close(found.reshape(-1), estimator.predict(x))


@pytest.mark.parametrize("name", [n for n in TRANSFORMERS if "neighbours" not in n])
def test_transformers(name):
    estimator, x = fitted(TRANSFORMERS[name], FLOWERS)
    (found,) = computed(IRTranslator().parse(estimator), x=x).values()
    close(found, estimator.transform(x))


@pytest.mark.slow
def test_an_imputer_by_neighbours():
    """NaN is a value that it compares with, and no damage."""
    test_transformers("impute by neighbours")


@pytest.mark.parametrize(
    "estimator",
    [cluster.KMeans(3, n_init=3, random_state=0), mixture.GaussianMixture(2, random_state=0)],
    ids=["kmeans", "mixture"],
)
def test_clusters(estimator):
    estimator, x = fitted(estimator, FLOWERS)
    found = computed(reader.read_object(estimator), x=x)
    np.testing.assert_array_equal(found["label"].reshape(-1), estimator.predict(x))


def test_columns_of_numbers_and_texts():
    """By position, as pandas is not needed here: two numbers and a text, each an input of its own."""
    random = np.random.default_rng(0)
    numbers = random.normal(size=(60, 2))
    texts = random.choice(["red", "green", "blue"], (60, 1))
    x = np.concatenate([numbers.astype(object), texts.astype(object)], axis=1)
    columns = compose.ColumnTransformer(
        [("n", preprocessing.StandardScaler(), [0, 1]), ("t", preprocessing.OneHotEncoder(), [2])]
    )
    y = (numbers[:, 0] > 0) ^ (texts[:, 0] == "red")
    model = pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(x, y.astype(np.int64))
    inputs = {"numbers": ("float32", 2), "colour": ("str", 1)}
    feeds = {"numbers": numbers.astype(np.float32), "colour": texts.astype(object)}
    found = computed(reader.read_object(model, inputs=inputs), **feeds)
    np.testing.assert_array_equal(found["label"], model.predict(x))
    close(found["probabilities"], model.predict_proba(x))


@pytest.mark.parametrize("name", ["pipeline", pytest.param("histogram boosting", marks=pytest.mark.slow)])
def test_files_of_skops(tmp_path, name):
    estimator, x = fitted(CLASSIFIERS[name], FLOWERS)
    path = tmp_path / "model.skops"
    skops_io.dump(estimator, path)
    model = IRTranslator().parse(path)
    assert model.provenance.source == "model.skops" and "scikit-learn" in model.provenance.producer
    assert any("Compared with scikit-learn" in step for step in model.provenance.steps)
    np.testing.assert_array_equal(computed(model, x=x)["label"], estimator.predict(x))


THRESHOLDS = {
    "one versus rest of margins": multiclass.OneVsRestClassifier(svm.LinearSVC()),
    "a threshold that was tuned": model_selection.TunedThresholdClassifierCV(
        linear_model.LogisticRegression(), scoring="recall", cv=2
    ),
}


@pytest.mark.parametrize("name", THRESHOLDS)
def test_what_skl2onnx_gets_wrong_is_refused(name):
    """Both compare with a half where scikit-learn compares with another number: few labels differ."""
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x = preprocessing.scale(x[:, :6]).astype(np.float32)
    estimator = THRESHOLDS[name].fit(x, y)
    with pytest.raises(BadModelError, match=r"into something else by skl2onnx.*'label'.*differs"):
        reader.read_object(estimator)


@pytest.mark.slow
def test_quantiles_of_tenths_are_refused():
    """Many are equal, and float32 has no tenths: what lies in the middle of them for scikit-learn does not here."""
    x = np.random.default_rng(0).normal(size=(90, 2)).astype(np.float32)
    reader.read_object(preprocessing.QuantileTransformer(n_quantiles=30).fit(x))
    with pytest.raises(BadModelError, match="into something else by skl2onnx"):
        reader.read_object(
            preprocessing.QuantileTransformer(n_quantiles=150).fit(FLOWERS[0].astype(np.float32))
        )


def touch(x):
    return x


@pytest.mark.slow
def test_types_that_could_run_code_are_named(tmp_path):
    path = tmp_path / "model.skops"
    x = FLOWERS[0].astype(np.float32)
    skops_io.dump(preprocessing.FunctionTransformer(touch).fit(x), path)
    with pytest.raises(BadModelError, match=r"model\.skops.*could run code.*touch.*trusted="):
        reader.read(path)


@pytest.mark.parametrize("suffix", [".pkl", ".joblib"])
def test_pickles_are_recognised_and_never_opened(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(linear_model.LinearRegression().fit([[0], [1]], [0, 1])))
    assert reader.recognises(path)
    with pytest.raises(BadModelError, match=r"pickle.*not opened.*skops\.io\.dump"):
        IRTranslator().parse(path)
    path.write_bytes(pickle.dumps({"weights": 3}))
    assert not reader.recognises(path)


def test_what_skl2onnx_does_not_know_is_told():
    estimator, _ = fitted(decomposition.FastICA(2, random_state=0), FLOWERS)
    with pytest.raises(BadModelError, match="FastICA cannot be exported"):
        reader.read_object(estimator)


def test_an_estimator_that_is_not_fitted_is_told():
    with pytest.raises(BadModelError, match="not fitted"):
        reader.read_object(linear_model.Ridge())


def test_it_takes_estimators_alone():
    assert reader.takes(linear_model.Ridge()) and not reader.takes(np.zeros(3)) and not reader.takes(touch)


@pytest.mark.parametrize("change", ["bomb", "climb", pytest.param("schema", marks=pytest.mark.slow), "cut"])
def test_archives_that_are_none(tmp_path, change):
    path = tmp_path / "strange.skops"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", '{"__class__": 3, "__loader__": "ObjectNode", "__module__": "x"}')
        if change == "bomb":
            archive.writestr("1.npy", bytes(50_000_000))
        if change == "climb":
            archive.writestr("../../etc/x", b"x")
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(RacelineError, match=r"strange\.skops"):
        reader.read(path, limits=Limits(max_model_bytes=10_000_000))
