"""Branches, loops, lists, state and what is refused: scripted modules against TorchScript itself."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from torch import nn  # noqa: E402
from unit.test_torchscript_operators import compare, flat, read  # noqa: E402

from raceline.convert import IRTranslator  # noqa: E402
from raceline.convert.formats.torchscript.rules import RULES  # noqa: E402
from raceline.core.errors import BadModelError, ConfigError, UnsupportedOperatorError  # noqa: E402
from raceline.ir import run_reference  # noqa: E402


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 2.0
        self.kind = "double"

    def forward(self, x, skip: torch.Tensor | None = None):
        if x.dim() != 3:
            raise ValueError(f"{x.dim()} axes")
        assert x.size(0) > 0, "empty"
        if self.kind == "double" and not self.training:
            x = x * self.scale
        return x if skip is None else x + skip


class Chosen(nn.Module):
    def forward(self, x):
        counts: list[int] = []
        if x.sum() > 0:
            y, n = x * 2, 3
        else:
            y, n = x - 1, 5
        if bool((x > 100).any()):
            y.add_(1)
        counts.append(n)
        return y + counts[0], n


class ChosenShapes(nn.Module):
    def forward(self, x):
        y = x.clone()
        if x.mean() > 0:
            y[:, 0] = 7.0
            z = (x[:, :2], x.sum())
        else:
            z = (x[:, 1:], x.mean())
        return y, z


class Loops(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x):
        state = torch.zeros(x.size(0), 4)
        rows: list[torch.Tensor] = []
        for layer in self.layers:
            x = torch.relu(layer(x))
        for t in range(x.size(1)):
            state = self.cell(x[:, t], state)
            if t % 2 == 0:
                rows.append(state)
        i = 0
        while i < len(rows):
            rows[i] = rows[i] * (i + 1)
            i += 2
        return torch.stack(rows, 1)


class Named(nn.Module):
    def forward(self, x, scale: float = 2.0, names: bool = True) -> dict[str, torch.Tensor]:
        pair: tuple[torch.Tensor, torch.Tensor] = (x * scale, x + 1)
        found: dict[str, torch.Tensor] = {"twice": pair[0]}
        if names:
            found["more"] = pair[1]
        return found

    @torch.jit.export
    def other(self, x):
        return x - 3


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.calls = 0
        self.last = torch.zeros(0)

    def forward(self, x):
        if self.calls > 0:
            x = x + 0.5 * self.last
        self.calls = 1
        self.total += x.sum(0)
        self.last = x
        return x + self.total


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def saved(module, tmp_path):
    path = tmp_path / "m.pt"
    torch.jit.script(module.eval()).save(str(path))
    return path, torch.jit.load(str(path)).eval()


X = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7 - 1


@pytest.mark.parametrize("module", [Branches(), Loops()], ids=lambda m: type(m).__name__)
def test_what_is_known_leaves_no_trace(module, tmp_path):
    path, loaded = saved(module, tmp_path)
    model = read(path, tmp_path, {"x": ("batch", 3, 4)})
    assert not {node.op_type for node in model.program.graph} & {"If", "Loop"}
    for rows in (1, 2, 5):
        compare(model, loaded, [X[:1].repeat(rows, 1, 1) * rows])


def test_an_optional_input_is_there_when_its_shape_is_given(tmp_path):
    path, loaded = saved(Branches(), tmp_path)
    compare(read(path, tmp_path, {"x": (2, 3, 4), "skip": (2, 3, 4)}), loaded, [X, X])


def test_a_check_that_cannot_be_decided_is_noted(tmp_path):
    path, _ = saved(Branches(), tmp_path)
    steps = read(path, tmp_path, {"x": ("batch", 3, 4)}).provenance.steps
    assert any("that may raise an exception" in step for step in steps)


@pytest.mark.parametrize("module", [Chosen(), ChosenShapes()], ids=lambda m: type(m).__name__)
def test_what_a_run_decides_becomes_if(module, tmp_path):
    path, loaded = saved(module, tmp_path)
    model = read(path, tmp_path, {"x": (2, 4)})
    assert "If" in {node.op_type for node in model.program.graph}
    for x in (torch.ones(2, 4), -torch.ones(2, 4), torch.full((2, 4), 200.0)):
        expected = loaded(x.clone())
        found = run_reference(model, {"x": x.numpy()})
        parts = [np.asarray(part) for part in _leaves(expected)]
        assert len(found) == len(parts)
        for ours, theirs in zip(found.values(), parts, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def _leaves(item):
    if isinstance(item, tuple | list):
        return [leaf for part in item for leaf in _leaves(part)]
    return [item.numpy() if isinstance(item, torch.Tensor) else item]


def test_numbers_are_inputs_unless_they_are_given(tmp_path):
    path, loaded = saved(Named(), tmp_path)
    fixed = read(path, tmp_path, {"x": (2, 3, 4)}, {"scale": 3, "names": 0})
    assert [spec.name for spec in fixed.signature.outputs] == ["twice"]
    np.testing.assert_allclose(run_reference(fixed, {"x": X.numpy()})["twice"], X.numpy() * 3)
    open_scale = read(path, tmp_path, {"x": (2, 3, 4)}, {"names": True})
    found = run_reference(open_scale, {"x": X.numpy(), "scale": np.float64(1.5)})
    np.testing.assert_allclose(found["twice"], X.numpy() * 1.5)
    assert set(found) == {"twice", "more"}


def test_another_method_can_be_read(tmp_path):
    path, loaded = saved(Named(), tmp_path)
    model = read(path, tmp_path, {"x": (2, 3, 4)}, method="other")
    np.testing.assert_allclose(run_reference(model, {"x": X.numpy()})["output"], flat(loaded.other(X))[0])


def test_state_goes_in_and_out(tmp_path):
    path, loaded = saved(Counter(), tmp_path)
    model = read(path, tmp_path, {"x": ("batch", 4)})
    feeds = {
        spec.name: np.zeros([3 if d == "batch" else d for d in spec.shape], np.float32)
        for spec in model.signature.inputs
    }
    assert set(feeds) == {"x", "total", "last"}
    assert any("calls = 1" in step for step in model.provenance.steps)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = torch.rand(3, 4, generator=generator)
        feeds["x"] = x.numpy()
        found = run_reference(model, feeds)
        np.testing.assert_allclose(found["output"], loaded(x.clone()).numpy(), rtol=1e-5)
        feeds |= {name: found[f"{name}_next"] for name in ("total", "last")}


def test_state_that_never_settles_is_refused(tmp_path):
    path, _ = saved(Growing(), tmp_path)
    with pytest.raises(BadModelError, match="changes itself.*calls"):
        read(path, tmp_path, {"x": (2,)})


def test_missing_shapes_are_told_with_what_to_write(tmp_path):
    path, _ = saved(Branches(), tmp_path)
    with pytest.raises(ConfigError, match=r"shape.*x.*shapes=.*--shape x="):
        read(path, tmp_path)
    with pytest.raises(ConfigError, match="no input 'y'"):
        read(path, tmp_path, {"y": (2,)})


def test_a_raised_exception_is_told(tmp_path):
    path, _ = saved(Branches(), tmp_path)
    with pytest.raises(BadModelError, match="raises.*2 axes"):
        read(path, tmp_path, {"x": (2, 3)})


class Exotic(nn.Module):
    def forward(self, x):
        unread = torch.linalg.qr(x)[0]  # noqa: F841
        y = torch.polygamma(1, x.exp())
        z = torch.fft.fft(x)
        return y + torch.rand_like(x), torch.view_as_real(z)


def test_everything_that_is_missing_is_told_at_once(tmp_path):
    path, _ = saved(Exotic(), tmp_path)
    with pytest.raises(UnsupportedOperatorError) as caught:
        read(path, tmp_path, {"x": (3, 3)})
    said = str(caught.value)
    assert all(part in said for part in ("polygamma", "rand_like", "fft_fft")), said
    assert "qr" not in said, "nobody reads it"


class OpenLoop(nn.Module):
    def forward(self, x):
        total = x[0]
        for row in range(x.size(0)):
            total = total + x[row]
        return total


def test_a_loop_over_an_open_axis_asks_for_its_size(tmp_path):
    path, loaded = saved(OpenLoop(), tmp_path)
    with pytest.raises(UnsupportedOperatorError, match="shapes="):
        read(path, tmp_path, {"x": ("n", 4)})
    compare(read(path, tmp_path, {"x": (3, 4)}), loaded, [X[0]])


def test_a_write_in_place_that_cannot_be_translated_is_never_left_out(tmp_path):
    class Puts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("at", torch.tensor([0, 2]))

        def forward(self, x):
            a = x.clone()
            a[:, self.at] = 7.0
            return a

    path = tmp_path / "puts.pt"
    torch.jit.trace(Puts(), torch.zeros(4, 5)).save(str(path))
    with pytest.raises(UnsupportedOperatorError, match="index_put_"):
        IRTranslator().parse(path, shapes={"x": (4, 5)})


class Rounded(nn.Module):
    def forward(self, x):
        return torch.floor(x)


def test_arguments_that_a_rule_does_not_take_are_told_with_the_node(tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "aten::floor", lambda b, node: None)
    path = tmp_path / "m.pt"
    torch.jit.script(Rounded()).save(path)
    with pytest.raises(BadModelError, match=r"m\.pt: node .*aten::floor.*TypeError.*fault of Raceline"):
        IRTranslator().parse(path, shapes={"x": (2,)})
