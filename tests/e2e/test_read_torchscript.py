"""Real networks as TorchScript and .pt2: what torch computes is what the translation computes."""

import importlib.util
import inspect
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import raceline.zoo as zoo  # noqa: E402
from raceline.convert import IRTranslator  # noqa: E402
from raceline.core.errors import BadModelError  # noqa: E402
from raceline.engines import Options, load  # noqa: E402
from raceline.ir import run_reference  # noqa: E402
from raceline.zoo._weights import sample  # noqa: E402

TOLERANCE = 1e-4
"""Of each output's largest magnitude."""


def _package(name):
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    return Path(spec.origin).parent


def _close(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def _leaves(item):
    if isinstance(item, torch.Tensor):
        return [item.numpy()]
    return [leaf for part in (item.values() if isinstance(item, dict) else item) for leaf in _leaves(part)]


def _speech_like(rate, samples, batch, seed):
    """A gliding tone that comes and goes, with noise."""
    time_s = np.arange(samples) / rate
    tone = np.sin(2 * np.pi * (200 + 60 * np.sin(2 * np.pi * 3 * time_s)) * time_s)
    noise = np.random.default_rng(seed).normal(0, 0.02, (batch, samples))
    return ((0.4 * tone * (np.sin(2 * np.pi * 1.3 * time_s) > 0))[None] + noise).astype(np.float32)


@pytest.mark.parametrize("rate, window", [(16000, 512), (8000, 256)])
def test_silero_hears_what_torchscript_hears(rate, window):
    path = _package("silero_vad") / "data" / "silero_vad.jit"
    model = IRTranslator().parse(path, shapes={"x": ("batch", window)}, values={"sr": rate})
    assert [spec.name for spec in model.signature.inputs] == ["x", "_context", "_state"]
    session = load("onnxruntime").load(model, Options())
    original = torch.jit.load(str(path)).eval()
    for batch, seed in ((1, 0), (3, 1)) if rate == 16000 else ((2, 2),):
        audio = _speech_like(rate, 30 * window, batch, seed)
        feeds = {
            spec.name: np.zeros([batch if d == "batch" else d for d in spec.shape], np.float32)
            for spec in model.signature.inputs
        }
        original.reset_states()
        for at in range(0, audio.shape[1], window):
            feeds["x"] = audio[:, at : at + window]
            with torch.no_grad():
                expected = original(torch.from_numpy(feeds["x"]), rate).numpy()
            found = run_reference(model, feeds) if at == 2 * window else session.run(feeds)
            np.testing.assert_allclose(found["output"], expected, atol=1e-5)
            feeds |= {"_context": found["_context_next"], "_state": found["_state_next"]}


def test_silero_refuses_a_window_of_another_length():
    path = _package("silero_vad") / "data" / "silero_vad.jit"
    with pytest.raises(BadModelError, match="Provided number of samples is 400"):
        IRTranslator().parse(path, shapes={"x": (1, 400)}, values={"sr": 8000})


def _check(module, inputs, path, *, script):
    names = list(inspect.signature(module.forward).parameters)[: len(inputs)]
    with torch.no_grad():
        saved = torch.jit.script(module) if script else torch.jit.trace(module, inputs, check_trace=False)
    saved.save(str(path))
    model = IRTranslator().parse(
        path,
        shapes={name: ("batch", *x.shape[1:]) for name, x in zip(names, inputs, strict=True)},
        dtypes={name: str(x.dtype).removeprefix("torch.") for name, x in zip(names, inputs, strict=True)},
    )
    session = load("onnxruntime").load(model, Options())
    for repeat in (1, 2):
        more = [torch.cat([x.flip(-1), *[x[:1]] * repeat]) for x in inputs]
        with torch.no_grad():
            expected = _leaves(module(*more))
        feeds = {spec.name: x.numpy() for spec, x in zip(model.signature.inputs, more, strict=True)}
        _close(list(session.run(feeds).values()), expected)


def _zoo(name):
    entry = next(entry for entry in zoo.list() if entry.name == name)
    generator = torch.Generator().manual_seed(0)
    return zoo.get(name), tuple(sample(spec, 2, generator) for spec in entry.inputs)


_ALL = ("minilm_l6", "mobilenet_v2", "mobilenet_v3_large", "resnet18", "resnet50", "vit_tiny", "yolov8n")
_QUICK = ("minilm_l6",)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in _QUICK else pytest.mark.slow) for n in _ALL]
)
def test_zoo_networks_traced(name, tmp_path):
    module, inputs = _zoo(name)
    _check(module, inputs, tmp_path / "m.pt", script=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in _ALL if n not in {"minilm_l6", "yolov8n"}]
)  # torch scripts no others
def test_zoo_networks_scripted(name, tmp_path):
    module, inputs = _zoo(name)
    _check(module, inputs, tmp_path / "m.pt", script=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", _ALL)
def test_zoo_networks_in_memory_and_as_pt2(name, tmp_path):
    module, inputs = _zoo(name)
    axis = torch.export.Dim("batch")
    shapes = tuple({0: axis} for _ in inputs)
    program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    torch.export.save(program, str(tmp_path / "m.pt2"))
    more = [torch.cat([x.flip(-1), x[:1]]) for x in inputs]
    with torch.no_grad():
        expected = _leaves(module(*more))
    for model in (
        IRTranslator().parse(module, inputs=inputs, dynamic_shapes=shapes),
        IRTranslator().parse(tmp_path / "m.pt2"),
    ):
        session = load("onnxruntime").load(model, Options())
        feeds = {spec.name: x.numpy() for spec, x in zip(model.signature.inputs, more, strict=True)}
        _close(list(session.run(feeds).values()), expected)


@pytest.fixture
def facenet():
    """The package without what its downloads and pictures need."""
    _package("facenet_pytorch")
    absent = ("requests", "requests.adapters", "torchvision", "torchvision.transforms", "torchvision.ops",
              "torchvision.transforms.functional", "torchvision.ops.boxes", "PIL", "tqdm", "tqdm.auto")  # fmt: skip
    stubs = {name: mock.MagicMock() for name in absent if name not in sys.modules}
    with mock.patch.dict(sys.modules, stubs):
        import facenet_pytorch.models.inception_resnet_v1 as resnet
        import facenet_pytorch.models.mtcnn as mtcnn

        yield mtcnn, resnet


@pytest.mark.filterwarnings("ignore")
def test_mtcnn_with_its_weights(facenet, tmp_path):
    mtcnn, _ = facenet
    generator = torch.Generator().manual_seed(0)
    for kind, side, script in (("PNet", (60, 70), False), ("ONet", (48, 48), True)):
        x = torch.rand(2, 3, *side, generator=generator) * 2 - 1
        _check(getattr(mtcnn, kind)().eval(), (x,), tmp_path / f"{kind}.pt", script=script)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inception_resnet(facenet, tmp_path):
    _, resnet = facenet
    torch.manual_seed(0)
    module = resnet.InceptionResnetV1(pretrained=None).eval()
    _check(module, (torch.randn(2, 3, 160, 160),), tmp_path / "m.pt", script=False)


def test_shipped_weights_alone_are_no_model():
    path = _package("facenet_pytorch") / "data" / "onet.pt"
    with pytest.raises(BadModelError, match="checkpoint, not a model"):
        IRTranslator().parse(path)
