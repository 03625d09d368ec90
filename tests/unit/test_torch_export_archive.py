"""What torch.export.load would run is refused before it sees the archive; the rest is read and matches torch."""

import json
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from raceline.convert import IRTranslator  # noqa: E402
from raceline.convert.formats.torch_export.archive import is_arithmetic  # noqa: E402
from raceline.convert.readers import torch_export  # noqa: E402
from raceline.core.errors import BadModelError, ConfigError  # noqa: E402
from raceline.ir import run_reference  # noqa: E402


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "s0 + 2*s1",
        "FloorDiv(s0, 2) - 1",
        "Mul(Integer(2), Symbol('s3', integer=True))",
        "Max(1, s0)**2",
        "u0",
        "((s12//2)) % 3",
        "1.5",
    ],
)
def test_sizes_are_arithmetic(text):
    assert is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Symbol('s0').__class__",
        "s0.subs(1, 2)",
        "open('x')",
        "eval('1')",
        "Symbol('eval')",
        'Symbol("s0")',
        "lambda: 0",
        "[s0 for s0 in s1]",
        "s0; s1",
        "exec",
        "2**99999999",
        "(s0 ) . free_symbols",
        "s0 if s1 else s2",
        "f'{s0}'",
        "1" * 5000,
    ],
)
def test_what_could_run_is_no_arithmetic(text):
    assert not is_arithmetic(text)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return torch_export.example(tmp_path_factory.mktemp("pt2"))


def changed(path, place, member, change):
    """A copy of an archive with one member changed, or added."""
    target = place / "changed.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name == f"{root}/{member}" else data)
        if f"{root}/{member}" not in old.namelist():
            new.writestr(f"{root}/{member}", change(b""))
    return target


def put(pattern, replacement):
    def change(data):
        assert pattern in data
        return data.replace(pattern, replacement)

    return change


def configured(**entry):
    return lambda data: json.dumps({"config": {"w": entry}}).encode()


CONFIG = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
MODEL = "models/model.json"


@pytest.mark.parametrize(
    "member, change, message",
    [
        (CONFIG, put(b'"use_pickle": false', b'"use_pickle": true'), "pickled"),
        (CONFIG, configured(path_name="weight_0"), "pickled"),
        (CONFIG, configured(path_name="../weight_0", use_pickle=False), "pickled"),
        (CONSTANTS, configured(path_name="opaque_obj_0", use_pickle=False), "pickled"),
        (CONSTANTS, configured(path_name="custom_obj_0", use_pickle=False), "pickled"),
        (CONFIG, lambda data: b"[]", "no table"),
        (CONFIG, lambda data: b"{", "json"),
        ("data/aotinductor/model/x.so", lambda data: b"ELF", "compiled"),
        (MODEL, put(b"torch.ops.aten.relu.default", b"torch.hub.load"), "operator"),
        (MODEL, put(b"torch.ops.aten.relu.default", b"torch.ops.load_library"), "operator"),
        (MODEL, put(b"Symbol('", b"exec('"), "size"),
        ("models/second.json", lambda data: b"{}", "one exported"),
        ("archive_format", lambda data: b"pt3", "no .pt2"),
    ],
)  # fmt: skip
def test_what_could_run_code_is_refused(good, tmp_path, member, change, message):
    with pytest.raises(BadModelError, match=message):
        torch_export.read(changed(good, tmp_path, member, change))


def test_sample_inputs_cannot_run_code(good, tmp_path):
    mark = tmp_path / "ran"
    hostile = f"cbuiltins\nopen\n(V{mark}\nVw\ntR.".encode()
    path = changed(good, tmp_path, "data/sample_inputs/model.pt", lambda data: hostile)
    with pytest.raises(BadModelError, match="changed.pt2"):
        torch_export.read(path)
    assert not mark.exists()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4)
        self.out = torch.nn.Linear(4, 2)

    def forward(self, x, y):
        return torch.tanh(self.out(self.norm(x)) + y), x.sum(1)


def test_modules_in_memory_match_and_keep_their_mode():
    torch.manual_seed(0)
    net = Net()
    net.norm.eval()
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 4), np.zeros((2, 2), np.float32))
    model = IRTranslator().parse(net, inputs=example, dynamic_shapes=({0: batch}, {0: batch}))
    assert net.training and not net.norm.training
    x, y = torch.randn(5, 4), torch.randn(5, 2)
    with torch.no_grad():
        expected = net.eval()(x, y)
    found = run_reference(model, {"x": x.numpy(), "y": y.numpy()})
    for ours, theirs in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)
    program = torch.export.export(net, (x, y), dynamic_shapes=({0: batch}, {0: batch}))
    again = run_reference(IRTranslator().parse(program), {"x": x.numpy(), "y": y.numpy()})
    for ours, theirs in zip(again.values(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_a_module_needs_inputs():
    with pytest.raises(ConfigError, match="inputs="):
        IRTranslator().parse(Net())


class Impossible(torch.nn.Module):
    def forward(self, x):
        return x[: int(x.sum().item())] if x.max() > 1 else x


def test_what_torch_cannot_export_is_told():
    with pytest.raises(BadModelError, match="Impossible cannot be exported by torch"):
        IRTranslator().parse(Impossible(), inputs=(torch.zeros(3),))


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("what", ["weights", "module"])
@pytest.mark.parametrize("name", ["torchscript", None])
def test_checkpoints_are_never_loaded(tmp_path, old, what, name):
    path = tmp_path / "model.pt"
    torch.save(
        Net().state_dict() if what == "weights" else Net(), path, _use_new_zipfile_serialization=not old
    )
    with pytest.raises(BadModelError, match="checkpoint, not a model.*torch.export.save"):
        IRTranslator(input_format=name).parse(path)
