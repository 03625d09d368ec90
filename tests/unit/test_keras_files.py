"""Keras files that are broken, hostile, or beyond what is read: one clear error for each."""

import copy
import io
import json
import random
import zipfile

import h5py
import numpy as np
import pytest

from raceline.convert.formats.keras import read as reading
from raceline.convert.formats.keras.source import Source, open_source
from raceline.convert.readers import keras as reader
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.ir import Limits, run_reference

DENSE = {"units": 2, "activation": "relu", "use_bias": True, "dtype": "float32", "trainable": True}
KERNEL, BIAS = np.arange(6, dtype=np.float32).reshape(3, 2), np.float32([1, -1])


def layer(kind, name, module="keras.layers", **config):
    return {"module": module, "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def sequential(*layers, shape=(None, 3), dtype="float32"):
    first = layer("InputLayer", "x", batch_shape=list(shape), dtype=dtype)
    return layer("Sequential", "net", "keras", layers=[first, *layers])


def functional(*layers, inputs=(("x", 0, 0),), outputs=(("y", 0, 0),)):
    return layer(
        "Functional", "net", "keras", layers=list(layers),
        input_layers=[list(i) for i in inputs], output_layers=[list(o) for o in outputs],
    )  # fmt: skip


def node(*refs, **kwargs):
    tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": list(ref)}} for ref in refs]
    return {"args": tensors, "kwargs": kwargs}


def used(entry, *nodes):
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": list(nodes)}


X = used(layer("InputLayer", "x", batch_shape=[None, 3], dtype="float32"))


def save(folder, config, fill=None, **members):
    """An archive; `fill` writes into its HDF5 file, and the weights of one dense layer are there otherwise."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        if fill:
            fill(file)
        else:
            file["layers/dense/vars/0"] = KERNEL
            file["layers/dense/vars/1"] = BIAS
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.9.0"}))
        archive.writestr("config.json", config if isinstance(config, str | bytes) else json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
        for name, content in members.items():
            archive.writestr(name, content)
    return path


PLAIN = sequential(layer("Dense", "dense", **DENSE))


def refused(path, message, kind=BadModelError):
    with pytest.raises(kind, match=message) as caught:
        reader.read(path, limits=Limits(max_model_bytes=1 << 28))
    assert "model." in str(caught.value)
    return caught.value


def test_the_plain_file_is_read(tmp_path):
    model = reader.read(save(tmp_path, PLAIN))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    (y,) = run_reference(model, {"x": x}).values()
    np.testing.assert_allclose(y, np.maximum(x @ KERNEL + BIAS, 0), rtol=1e-6)
    assert model.signature.inputs[0].shape[0] == model.signature.outputs[0].shape[0] == "batch"
    assert model.provenance.producer == "keras 3.9.0"


def test_everything_that_has_no_translation_is_told_at_once(tmp_path):
    config = sequential(
        layer("Lambda", "code", function={"class_name": "__lambda__", "config": {"code": "4wE="}}),
        layer("Dense", "dense", **DENSE | {"activation": "my_activation"}),
        layer("Mine", "mine", module=None) | {"registered_name": "Custom>Mine"},
    )
    error = refused(save(tmp_path, config), "export a SavedModel", UnsupportedOperatorError)
    assert any("Python code" in use for use in error.uses)
    assert "Custom>Mine" in error.uses


def test_joined_by_code_is_refused_with_the_way_out(tmp_path):
    path = save(tmp_path, layer("MyModel", "net", "__main__", units=3))
    refused(path, "joined by Python code.*SavedModel")


@pytest.mark.parametrize(
    "config, message",
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"class_name": "\\ud800", "config": {}}', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}", "deeper"),
        ({"class_name": 3}, "class_name"),
        (sequential(layer("Dense", "dense", **DENSE), shape=(None, -3)), "shape"),
        (sequential(layer("Dense", "dense", **DENSE), shape=(None, 1 << 40)), "shape"),
        (sequential(layer("Dense", "dense", **DENSE), dtype="string"), "string"),
        (sequential(layer("Dense", "dense"), layer("Dense", "dense")), "two layers"),
        (sequential(layer("Dense", "dense")), "'units' is missing"),
        (functional(X, used(layer("ReLU", "y"), node(("y", 0, 0)))), "reads what it makes itself"),
        (functional(X, used(layer("ReLU", "y"), node(("z", 0, 0)))), "'z'"),
        (functional(X, used(layer("ReLU", "y"), node(("x", 0, 5)))), "output 5"),
        (functional(X, used(layer("ReLU", "y"), node(("x", 0, 0))), outputs=[("y", 3, 0)]), "call 3"),
    ],
)
def test_broken_configurations(tmp_path, config, message):
    refused(save(tmp_path, config), message)


def test_models_that_multiply_are_bounded(tmp_path):
    inner = functional(X, used(layer("ReLU", "y"), node(("x", 0, 0))))
    for _ in range(24):  # each model calls the one inside it twice
        twice = used(
            inner | {"config": inner["config"] | {"name": "y"}}, node(("x", 0, 0)), node(("y", 0, 0))
        )
        inner = functional(X, twice, outputs=[("y", 2, 0)])
    refused(save(tmp_path, inner), "limit")


def test_models_inside_models_end(tmp_path):
    inner = functional(X, used(layer("ReLU", "y"), node(("x", 0, 0))))
    for _ in range(60):
        inner = functional(
            X,
            used(inner | {"config": inner["config"] | {"name": "y"}}, node(("x", 0, 0))),
            outputs=[("y", 1, 0)],
        )
    refused(save(tmp_path, inner), "deeper")


def external(file):
    file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")
    file["layers/dense/vars/1"] = BIAS


def soft(file):
    file["layers/dense/vars/1"] = BIAS
    file["layers/dense/vars/0"] = h5py.SoftLink("/layers/dense/vars/1")


def foreign(file):
    group = file.create_group("layers/dense/vars")
    group.create_dataset("0", (3, 2), "f4", external=[("/etc/passwd", 0, 24)])
    group["1"] = BIAS


def virtual(file):
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3, 2))
    file.create_group("layers/dense/vars").create_virtual_dataset("0", layout)
    file["layers/dense/vars/1"] = BIAS


def packed_otherwise(file):
    group = file.create_group("layers/dense/vars")
    group.create_dataset("0", data=KERNEL, chunks=True, compression="lzf")
    group["1"] = BIAS


def claiming(file):
    group = file.create_group("layers/dense/vars")
    group.create_dataset("0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    group["1"] = BIAS


def texts(file):
    file["layers/dense/vars/0"] = np.array([b"a", b"b"], dtype=object)
    file["layers/dense/vars/1"] = BIAS


def misshapen(file):
    file["layers/dense/vars/0"] = KERNEL.T.copy()
    file["layers/dense/vars/1"] = BIAS


def fewer(file):
    file["layers/dense/vars/0"] = KERNEL


def of_another(file):
    fewer(file)
    file["layers/dense/vars/1"] = BIAS
    file["layers/dense/vars"].attrs["name"] = "another"


def not_numbers(file):
    file["layers/dense/vars/0"] = KERNEL * np.nan
    file["layers/dense/vars/1"] = BIAS


@pytest.mark.parametrize(
    "fill, message",
    [
        (external, "leads elsewhere"),
        (soft, "leads elsewhere"),
        (foreign, "another file"),
        (virtual, "another file"),
        (packed_otherwise, "foreign filters"),
        (claiming, "more than the file holds"),
        (texts, "plain numbers"),
        (misshapen, r"\(2, 3\) and should be \(3, 2\)"),
        (fewer, "has 1 array and should have 2"),
        (of_another, "belongs to a layer 'another'"),
        (not_numbers, "NaN"),
        (lambda file: None, "has 0 arrays"),
    ],
)
def test_weights_that_cannot_be_trusted(tmp_path, fill, message):
    refused(save(tmp_path, PLAIN, fill), message)


def test_compressed_weights_are_read(tmp_path):
    def fill(file):
        group = file.create_group("layers/dense/vars")
        group.create_dataset("0", data=KERNEL, chunks=True, compression="gzip", shuffle=True, fletcher32=True)
        group["1"] = BIAS

    model = reader.read(save(tmp_path, PLAIN, fill))
    (y,) = run_reference(model, {"x": np.eye(3, dtype=np.float32)}).values()
    np.testing.assert_allclose(y, np.maximum(KERNEL + BIAS, 0))


def test_archives_that_climb_are_refused(tmp_path):
    refused(save(tmp_path, PLAIN, **{"../outside": b"x"}), "leads outside")


def test_weights_alone_are_no_model(tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"dense"]
    assert reader.recognises(path)
    refused(path, "holds no model.*model.save")


def test_other_archives_and_hdf5_files_are_not_recognised(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["x"] = BIAS
    assert not reader.recognises(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data.pkl", b"x")
    assert not reader.recognises(tmp_path / "other.zip")


def test_keras_1_is_refused(tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(PLAIN)
        file.attrs["keras_version"] = "1.2.2"
    refused(path, "Keras 1.2.2.*save it again")


def test_narrow_policies_compute_in_float32_and_say_so(tmp_path):
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}
    model = reader.read(save(tmp_path, sequential(layer("Dense", "dense", **DENSE | {"dtype": policy}))))
    assert any("mixed_float16" in step for step in model.provenance.steps)
    assert model.signature.outputs[0].dtype == "float32"


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "kind, sizes", [("UpSampling2D", {"size": 2}), ("Resizing", {"height": 5, "width": 7})]
)
def test_interpolation_that_depends_on_the_backend_is_told(tmp_path, caplog, kind, sizes, mode):
    grown = layer(kind, "grown", interpolation=mode, **sizes)
    model = reader.read(save(tmp_path, sequential(grown, shape=(None, 4, 4, 3)), lambda file: None))
    told = [step for step in model.provenance.steps if "grown" in step and "on TensorFlow" in step]
    assert bool(told) == ("on TensorFlow" in caplog.text) == (mode == "bicubic")


def test_quantised_weights_are_refused(tmp_path):
    policy = {"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8", "source_name": "float32"}}
    path = save(tmp_path, sequential(layer("Dense", "dense", **DENSE | {"dtype": policy})))
    refused(path, "quantised", UnsupportedOperatorError)


def test_a_mask_that_came_by_unknown_means_is_refused(tmp_path):
    layers = [
        layer("Embedding", "embedding", input_dim=5, output_dim=2, mask_zero=True, trainable=True),
        layer("Reshape", "reshape", "keras.src.ops.numpy", newshape=[-1, 3, 2]),
        layer("GlobalAveragePooling1D", "pool", trainable=True),
    ]

    def fill(file):
        file["layers/embedding/vars/0"] = np.ones((5, 2), np.float32)

    path = save(tmp_path, sequential(*layers, dtype="int32"), fill)
    refused(path, "mask", UnsupportedOperatorError)


def test_models_in_memory_are_read(tmp_path):
    path = save(tmp_path, PLAIN)
    base = type("Model", (), {"__module__": "keras.src.models.model"})
    model = type(
        "Mine", (base,), {"name": "mine", "save": lambda self, to: to.write_bytes(path.read_bytes())}
    )()
    assert reader.takes(model) and not reader.takes(path) and not reader.takes(object())
    assert reader.read_object(model).provenance.source == "mine"


CHANGES = [
    None, True, -1, 0, 1, 7, 1 << 40, -(1 << 70), 0.5, float("nan"), "", "relu", "x", [], [None], [1], [0, 0], [[]],
    {}, {"class_name": "Dense"}, {"class_name": []},
    {"class_name": "__tensor__", "config": {"value": [1], "dtype": "O"}},
    ["x", 0, 0], {"class_name": "__slice__", "config": {"start": 0, "stop": None, "step": 0}},
]  # fmt: skip


def everywhere(holder, found):
    for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
        found.append((holder, key))
        if isinstance(holder[key], dict | list):
            everywhere(holder[key], found)
    return found


def changed(config, rng):
    config = json.loads(json.dumps(config))
    for _ in range(rng.choice([1, 1, 2, 3])):
        holder, key = rng.choice(everywhere(config, []))
        if rng.random() < 0.15 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(CHANGES))
    return config


SLICES = [{"class_name": "__slice__", "config": {"start": n, "stop": None, "step": n}} for n in (None, 1)]
RICH = functional(
    X,
    used(layer("Dense", "dense", **DENSE), node(("x", 0, 0)), node(("x", 0, 0))),
    used(
        layer("Concatenate", "join", axis=-1, trainable=True),
        {"args": [node(("dense", 0, 0), ("dense", 1, 0))["args"]], "kwargs": {}},
    ),
    used(
        layer("GetItem", "item", "keras.src.ops.numpy"),
        {"args": [*node(("join", 0, 0))["args"], SLICES], "kwargs": {}},
    ),
    used(layer("Reshape", "y", target_shape=[3, 1], trainable=True), node(("item", 0, 0))),
)


def survives(source, count, start=0):
    for seed in range(start, start + count):
        config = changed(source.config, random.Random(seed))
        spoilt = Source(source.name, config, source.version, source.weights, source.whole, source.sha256)
        try:
            reading._model(spoilt, Limits(max_model_bytes=1 << 28, max_nodes=2000))
        except RacelineError:
            pass


def test_any_change_of_the_configuration_is_read_or_refused(tmp_path):
    path = save(tmp_path, RICH)
    reader.read(path)
    survives(open_source(path, Limits()), 300)


@pytest.mark.slow
def test_thousands_of_changes_of_the_configuration_are_read_or_refused(tmp_path):
    survives(open_source(save(tmp_path, RICH), Limits()), 5000, start=300)


def flipped(data, rng):
    data = bytearray(data)
    if rng.random() < 0.2:
        return bytes(data[: rng.randrange(len(data))])
    for _ in range(rng.choice([1, 2, 8])):
        data[rng.randrange(min(len(data), 4096))] = rng.randrange(256)
    return bytes(data)


def spoil(path, count, start=0):
    data = path.read_bytes()
    for seed in range(start, start + count):
        path.write_bytes(flipped(data, random.Random(seed)))
        try:
            reader.recognises(path)
            reader.read(path, limits=Limits(max_model_bytes=1 << 28))
        except RacelineError:
            pass


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "model.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(PLAIN)
        file.attrs["keras_version"] = "3.9.0"
        group = file.create_group("model_weights/dense")
        group.attrs["weight_names"] = [b"dense/kernel", b"dense/bias"]
        group["dense/kernel"], group["dense/bias"] = KERNEL, BIAS
    reader.read(path)
    return path


def test_damaged_hdf5_is_read_or_refused(whole):
    spoil(whole, 12)


@pytest.mark.slow
def test_much_damaged_hdf5_is_read_or_refused(whole):
    spoil(whole, 1000, start=12)
