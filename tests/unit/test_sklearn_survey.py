"""Every estimator of scikit-learn that skl2onnx knows: read and right, or refused by name; never wrong."""

import inspect

import numpy as np
import pytest

pytest.importorskip("skl2onnx")

from sklearn import (  # noqa: E402
    datasets,
    decomposition,
    linear_model,
    naive_bayes,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import is_regressor  # noqa: E402
from sklearn.utils import all_estimators  # noqa: E402

from raceline.convert.readers import sklearn as reader  # noqa: E402
from raceline.core.errors import BadModelError  # noqa: E402
from raceline.ir import run_reference  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
FLOWERS = tuple(array[:150] for array in datasets.load_iris(return_X_y=True))
PATIENTS = tuple(array[:150] for array in datasets.load_diabetes(return_X_y=True))
LOGISTIC, RIDGE = linear_model.LogisticRegression(max_iter=300), linear_model.Ridge()
TWO_CLASSIFIERS = [("a", naive_bayes.GaussianNB()), ("b", tree.DecisionTreeClassifier(max_depth=3))]
TWO_REGRESSORS = [("a", RIDGE), ("b", svm.SVR())]
GIVEN = {
    "ColumnTransformer": [
        [("a", preprocessing.StandardScaler(), [0, 1]), ("b", preprocessing.MinMaxScaler(), [2, 3])]
    ],
    "FeatureUnion": [[("a", preprocessing.StandardScaler()), ("b", decomposition.PCA(2))]],
    "GaussianRandomProjection": [3],
    "GridSearchCV": [LOGISTIC, {"C": [0.1, 1]}],
    "Pipeline": [[("a", preprocessing.StandardScaler()), ("b", LOGISTIC)]],
    "RandomizedSearchCV": [LOGISTIC, {"C": [0.1, 1]}],
    "StackingClassifier": [TWO_CLASSIFIERS],
    "StackingRegressor": [TWO_REGRESSORS],
    "VotingClassifier": [TWO_CLASSIFIERS],
    "VotingRegressor": [TWO_REGRESSORS],
}  # what cannot be made of nothing, or of one other estimator
SETTINGS = {
    "KBinsDiscretizer": {"encode": "ordinal"},
    "LocalOutlierFactor": {"novelty": True},
    "RandomizedSearchCV": {"n_iter": 2},
    "VotingClassifier": {"voting": "soft", "flatten_transform": False},
}
REFUSED = frozenset(
    """FeatureHasher GaussianProcessClassifier MultiOutputClassifier NearestNeighbors
    OneHotEncoder QuantileTransformer RandomTreesEmbedding TargetEncoder TunedThresholdClassifierCV""".split()
)
"""By skl2onnx with these settings and this data, or because what it makes is something else."""
OF_OTHER_THINGS = frozenset(
    "CountVectorizer DictVectorizer KernelCenterer LabelBinarizer LabelEncoder TfidfVectorizer".split()
)
"""Of texts, dictionaries, labels or kernels: no table of numbers fits them."""
TOLERANCE = 1e-4
MOST_ON_EDGES = 0.1  # of labels: those of a OneClassSVM's support vectors change within float32's precision


def known():
    """Estimators that skl2onnx has a converter for."""
    from skl2onnx._supported_operators import sklearn_operator_name_map

    names = {kind.__name__ for kind in sklearn_operator_name_map}
    return {name: kind for name, kind in all_estimators() if name in names}


def made(name, kind):
    """An estimator with what it needs, small and the same each time."""
    parameters = inspect.signature(kind).parameters
    given = list(GIVEN.get(name, []))
    if not given and "estimator" in parameters and parameters["estimator"].default is inspect.Parameter.empty:
        given = [RIDGE if "Regressor" in name or name == "RegressorChain" else LOGISTIC]
    settings = {
        key: value for key, value in {"random_state": 0, "n_estimators": 5}.items() if key in parameters
    }
    return kind(*given, **settings | SETTINGS.get(name, {}))


def fitted(estimator):
    """The estimator on the first data that it takes, and rows of it; None where it takes no table of numbers."""
    regressor = is_regressor(estimator)
    x, y = PATIENTS if regressor else FLOWERS
    several = np.stack([y, -y if regressor else y % 2], 1)
    for table, target in ((x, y), (x, several), (np.abs(x), np.abs(y) + 1), (x, y > 0), (x, None)):
        try:
            estimator.fit(table.astype(np.float32), target)
        except Exception:  # noqa: BLE001, S112  each says in its own way that it takes something else
            continue
        return table[::9].astype(np.float32)
    return None


def answers(estimator, x):
    """What its methods give."""
    for method in ("predict", "predict_proba", "transform"):
        try:
            found = getattr(estimator, method)(x)
            found = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
        except Exception:  # noqa: BLE001, S112  methods that are there by name alone
            continue
        if found.dtype.kind in "biuf":
            yield method, found


def apart(found, expected):
    """How far an output is from an answer, of its largest number; infinite where it is none of it."""
    if found.size != expected.size or found.dtype.kind not in "biuf":
        return np.inf
    difference = np.abs(found.reshape(expected.shape).astype(np.float64) - expected).max()
    return difference / max(np.abs(expected).max(), 1e-9)


@pytest.mark.parametrize("name", sorted(known().keys() - OF_OTHER_THINGS))
def test_it_computes_what_scikit_learn_does_or_is_refused(name):
    estimator = made(name, known()[name])
    x = fitted(estimator)
    assert x is not None, "it takes none of the tables"
    try:
        model = reader.read_object(estimator)
    except BadModelError as error:
        assert name in str(error) and name in REFUSED
        return
    (spec,) = model.signature.inputs
    found = run_reference(model, {spec.name: x})
    expected = dict(answers(estimator, x))
    assert expected, "it has nothing to compare with"
    paired = {"label": "predict", "probabilities": "predict_proba"}
    for output, array in found.items():
        method = paired.get(output)
        if method == "predict" and method in expected:
            wrong = np.mean(array.reshape(expected[method].shape) != expected[method])
            assert wrong <= MOST_ON_EDGES
        elif method in expected:
            assert apart(array, expected[method]) < TOLERANCE
        elif len(found) == 1:
            assert min(apart(array, answer) for answer in expected.values()) < TOLERANCE
