"""Quantisation-aware training: its gradients, its folding, and that what is exported is what was trained."""

import subprocess
import sys

import numpy as np
import pytest

from raceline import engines, zoo
from raceline.convert import qat
from raceline.convert.quantise import Observed, Scheme, scheme_for
from raceline.core.errors import BadModelError, ConfigError, ShapeError
from raceline.ir import Bundle, run_reference, this_machine, to_proto

torch = pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
from torch import nn  # noqa: E402

from raceline.convert.qat.fake import rounded, weight_steps  # noqa: E402
from raceline.convert.qat.layers import QuantisedLayer  # noqa: E402

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


class Block(nn.Module):
    """A sum, a concatenation, three activations, pooling of both kinds, a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(16, 6, 2, stride=2, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.Conv2d(6, 8, 1)
        self.classify = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 3))

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, x + self.branch(x)], 1)
        x = nn.functional.silu(self.norm(self.up(self.pool(x))))
        x = nn.functional.relu(self.last(x), inplace=True)
        return self.classify(x.mean((2, 3)))


def network(seed=0):
    """A Block whose BatchNorms have something to fold."""
    torch.manual_seed(seed)
    module = Block()
    with torch.no_grad():
        for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.5, 2)
    return module.eval()


def pictures(count=16, seed=1):
    return np.random.default_rng(seed).standard_normal((count, 1, 8, 8)).astype(np.float32)


def calibrated(scheme=None, seed=0, **options):
    student = qat.prepare(network(seed), (torch.from_numpy(pictures(4)),), scheme or Scheme(**options))
    qat.calibrate(student, [pictures()])
    return student


# gradients


@pytest.mark.parametrize("zero", [0, 3])
def test_the_gradient_goes_straight_through_within_reach_and_nowhere_beyond(zero):
    step = 0.25
    x = torch.tensor([-5.0, -1.3, -0.4, 0.0, 0.6, 1.4, 9.0], dtype=torch.float64, requires_grad=True)

    def grid(values):
        return rounded(values, torch.tensor(step, dtype=torch.float64), zero, -7, 7, items=1)

    (slope,) = torch.autograd.grad(grid(x).sum(), x)
    with torch.no_grad():  # over whole steps the staircase rises as the line through it does
        numeric = (grid(x + step) - grid(x - step)) / (2 * step)
    torch.testing.assert_close(slope, numeric)
    assert set(slope.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("shape", [(), (6, 1)])
def test_the_step_learns_by_the_papers_formula(shape):
    generator = torch.Generator().manual_seed(5)
    v = torch.randn((6, 40), generator=generator, dtype=torch.float64)
    step = torch.rand(shape, generator=generator, dtype=torch.float64) * 0.2 + 0.05
    step.requires_grad_()
    upstream = torch.randn(v.shape, generator=generator, dtype=torch.float64)
    items = v.numel() // step.numel()
    (found,) = torch.autograd.grad(rounded(v, step, 0, -7, 7, items=items), step, upstream)
    ratio = (v / step).detach().numpy()  # equation 3, and the scale 1/sqrt(N Q_P) of section 2.2
    slope = np.where(ratio <= -7, -7.0, np.where(ratio >= 7, 7.0, np.rint(ratio) - ratio))
    assert (ratio <= -7).any() and (ratio >= 7).any()
    products = slope * upstream.numpy()
    expected = (products.sum() if shape == () else products.sum(1, keepdims=True)) / np.sqrt(items * 7)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_the_first_step_size_is_the_best_of_those_tried():
    weight = torch.from_numpy(RNG.standard_normal((5, 60)).astype(np.float32))
    weight[2] = 0
    step = weight_steps(weight, 0, 4)
    assert step.shape == (5, 1) and float(step[2]) == 1.0

    def error(size):
        return (torch.round(weight / size).clamp(-7, 7) * size - weight).square().sum(1)

    for part in (1.0, 0.9, 0.7, 0.5):
        reach = (weight.abs().amax(1, keepdim=True) / 7 * part).clamp_min(1e-6)
        assert (error(step) <= error(reach) + 1e-5).all()


# folding


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda: nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d, (5, 4, 7, 7)),
        (lambda: nn.Conv1d(4, 6, 3, stride=2), nn.BatchNorm1d, (5, 4, 9)),
        (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d, (5, 4, 5, 5)),
        (lambda: nn.Linear(4, 6), nn.BatchNorm1d, (5, 4)),
    ],
)
def test_folding_is_exact_and_statistics_follow_as_batchnorms_do(layer, norm, shape):
    torch.manual_seed(2)
    plain = nn.Sequential(layer(), norm(6)).double()
    with torch.no_grad():
        plain[1].weight.normal_()
        plain[1].bias.normal_()
        plain[1].running_mean.normal_()
        plain[1].running_var.uniform_(0.5, 2)
    import copy

    folded = QuantisedLayer(*copy.deepcopy(plain), 8)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(folded.eval()(x), plain.eval()(x))
    plain.train()(x)
    folded.train()(x)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(folded.norm, name), getattr(plain[1], name))
    folded.frozen = True
    before = folded.norm.running_mean.clone()
    folded(x + 3)
    assert torch.equal(folded.norm.running_mean, before)


def test_a_channel_that_is_off_keeps_its_statistics():
    layer = QuantisedLayer(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), 8)
    with torch.no_grad():
        layer.norm.weight[1] = 0
    layer.train()(torch.randn(4, 2, 5, 5))
    assert torch.isfinite(layer.norm.running_var).all() and layer.norm.running_var[1] == 1
    assert layer.norm.running_var[0] != 1


# preparing


def test_nothing_is_rounded_before_calibration():
    module, x = network(), torch.from_numpy(pictures(4))
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    student = qat.prepare(module, (x,))
    with torch.no_grad():
        torch.testing.assert_close(student(x), module(x), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    assert {*student.layers} == {"stem.0", "branch.0", "up", "last", "classify.1"}
    assert all(layer.norm is not None for n, layer in student.layers.items() if n[0] in "sbu")


def test_schemes_decide_what_is_rounded():
    read = calibrated(results=False)
    also_given = calibrated(results=True)
    assert len(also_given.quantisers) > len(read.quantisers) >= 5
    signed = calibrated(activations="int8")
    assert all(int(q.zero_point) == 0 and q.low == -128 for q in signed.quantisers.values())
    seven = calibrated(weight_bits=7)
    assert all(int(layer.whole()[0].abs().max()) <= 63 for layer in seven.layers.values())


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_ranges_are_found_by_the_schemes_method(method):
    data = pictures(400)
    data[0, 0, 0, 0] = 50.0
    student = qat.prepare(network(), (torch.from_numpy(pictures(2)),), Scheme(method=method))
    qat.calibrate(student, [data[:150], data[150:]])
    (first, *_) = student.quantisers.values()
    seen = Observed()
    seen.reach(data)
    seen.count(data, 2048)
    low, high = seen.range(method, symmetric=False)
    step = float(first.step.detach())
    assert step == pytest.approx((high - low) / 255, rel=1e-5)
    assert int(first.zero_point) == round(-low / step)
    assert (high == 50) == (method == "minmax")


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 8), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Branching, r"cannot be traced.*branch on their values"),
        (Forgetful, "computes something else once it is traced"),
        (nn.ReLU, "nothing to quantise"),
        (lambda: nn.Linear(4, 4), r"cannot be traced.*shapes cannot be multiplied"),
        (lambda: nn.Linear(8, 8).double(), r"cannot be traced|float64"),
    ],
)
def test_what_cannot_be_prepared_is_told(module, message):
    with pytest.raises(BadModelError, match=message):
        qat.prepare(module(), (torch.ones(2, 8),))


def test_layers_that_stay_in_floating_point_are_told():
    shared = nn.Conv2d(2, 2, 1)
    module = nn.Sequential(
        shared, shared, nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), nn.Conv2d(2, 2, 1)
    )
    student = qat.prepare(module, (torch.rand(2, 2, 6, 6),))
    assert set(student.refused) == {"0", "2"} and set(student.layers) == {"3"}
    assert "more than once" in student.refused["0"] and "circular" in student.refused["2"]


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "NaN or infinity")])
def test_calibration_data_that_is_not_finite_is_refused(value, message):
    data = pictures()
    data[3, 0, 2, 2] = value
    student = qat.prepare(network(), (torch.from_numpy(pictures(2)),))
    with pytest.raises(BadModelError, match=message):
        qat.calibrate(student, [data])


def test_no_calibration_is_told():
    student = qat.prepare(network(), (torch.from_numpy(pictures(2)),))
    for call in (lambda: qat.to_onnx(student), lambda: qat.fewer_bits(student, pictures(), 1000)):
        with pytest.raises(ConfigError, match="not calibrated"):
            call()
    with pytest.raises(ConfigError, match="no data"):
        qat.calibrate(student, [])


# training


def labelled(count=240, seed=0):
    """Pictures of three classes: lying stripes, standing ones, or none."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    items = generator.standard_normal((count, 1, 8, 8)).astype(np.float32) * 0.7
    items[labels == 0, :, ::2] += 2
    items[labels == 1, :, :, ::2] += 2
    return items, labels


def test_training_makes_it_right_and_again_the_same():
    items, labels = labelled()
    found = []
    for _ in range(2):
        torch.manual_seed(9)
        module = Block()
        recipe = qat.Recipe(epochs=5, learning_rate=0.05, batch=16, seed=4)
        qat.fit(module, items, labels, recipe=recipe)
        student = qat.prepare(module, (torch.from_numpy(items[:2]),), Scheme(weight_bits=4))
        qat.calibrate(student, [items[:64]])
        history = qat.fit(
            student, items, labels, recipe=qat.Recipe(epochs=3, batch=32), teacher=module,
            validation=labelled(90, seed=1),
        )  # fmt: skip
        assert history.kept == max(range(3), key=lambda e: (history.accuracies[e], e))
        assert all(layer.frozen for layer in student.layers.values())
        found.append(student.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    test = labelled(300, seed=2)
    assert qat.accuracy(student, *test) > 0.9
    assert qat.accuracy(student, *test) > qat.accuracy(module, *test) - 0.05


def test_pictures_are_changed_before_each_step_by_the_seed():
    items, labels = labelled(64)
    seen, found = [], []

    def augment(pictures):
        seen.append(torch.rand(1))
        return pictures.flip(-1) + seen[-1]

    for change in (augment, augment, None):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        nn.init.zeros_(module[1].weight)
        nn.init.zeros_(module[1].bias)
        qat.fit(module, items, labels, recipe=qat.Recipe(epochs=1, batch=16, seed=6), augment=change)
        found.append(module[1].weight.detach())
    assert len(seen) == 8 and seen[:4] == seen[4:]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_step_sizes_learn():
    student = calibrated()
    before = {name: q.step.detach().clone() for name, q in student.quantisers.items()}
    items, labels = labelled(64)
    qat.fit(student, items, labels, recipe=qat.Recipe(epochs=1, batch=16))
    assert all(not torch.equal(before[name], q.step) for name, q in student.quantisers.items())
    assert all(float(q.step.detach()) > 0 for q in student.quantisers.values())


def test_a_loss_that_is_no_number_stops_training():
    items, labels = labelled(64)
    with pytest.raises(BadModelError, match=r"diverged.*lower learning rate"):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        qat.fit(module, items, labels, recipe=qat.Recipe(epochs=3, learning_rate=1e38))


def test_wrong_training_data_is_refused():
    items, labels = labelled(20)
    with pytest.raises(ShapeError, match="20 items and 19 labels"):
        qat.fit(Block(), items, labels[:-1])
    items[2] = np.nan
    with pytest.raises(BadModelError, match="NaN"):
        qat.fit(Block(), items, labels)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0},
        {"optimiser": "luck"},
        {"batch": 0},
        {"freeze_at": 2},
        {"distil": -1},
    ],
)
def test_recipes_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        qat.Recipe(**wrong)


# exporting


def close_to_steps(found, expected, share=0.02):
    """Equal up to some activations that fell on the other side of a step."""
    scale = np.abs(expected).max()
    assert np.abs(found - expected).max() <= share * scale
    assert np.median(np.abs(found - expected)) <= 0.004 * scale


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"activations": "int8"}, marks=pytest.mark.slow),
        pytest.param({"results": False}, marks=pytest.mark.slow),
        pytest.param({"weight_bits": 7}, marks=pytest.mark.slow),
        {"activations": "int8", "results": False, "weight_bits": 7},
    ],
)
def test_what_is_exported_is_what_was_trained(options):
    student = calibrated(**options).eval()
    items, labels = labelled(64)
    qat.fit(student, items, labels, recipe=qat.Recipe(epochs=1, batch=16))
    model = qat.to_onnx(student, name="block", input_names=["pictures"], output_names=["logits"])
    assert model.signature.batch_axis == "batch" and model.signature.outputs[0].name == "logits"
    x = pictures(32, seed=7)
    expected = qat.scores(student, x)
    feeds = {model.signature.inputs[0].name: x}
    close_to_steps(run_reference(model, feeds)["logits"], expected)
    for name in ("onnxruntime", "openvino"):
        session = engines.load(name).load(model, engines.Options())
        close_to_steps(session.run(feeds)["logits"], expected)
        session.close()
    plain = qat.scores(network(), x)
    assert np.abs(expected - plain).max() > 0.02 * np.abs(plain).max()  # rounding and training did something
    text = to_proto(model).SerializeToString()
    assert b".py" not in text and b"stack_trace" not in text
    assert not any(node.metadata_props for node in model.program.graph.all_nodes())


def test_one_layer_is_exported_to_the_bit():
    torch.manual_seed(1)
    student = qat.prepare(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), (torch.rand(2, 3, 6, 6),))
    x = RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)
    qat.calibrate(student, [x])
    model = qat.to_onnx(student)
    (name,) = (spec.name for spec in model.signature.inputs)
    (found,) = run_reference(model, {name: x}).values()
    (quantiser, *_) = student.quantisers.values()
    layer = student.layers["0"]
    small, step, bias = layer.whole()
    assert small.dtype == torch.int8
    scale, zero = float(quantiser.step.detach()), int(quantiser.zero_point)
    whole = (np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255) - zero).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (3, 3), axis=(2, 3))
    sums = np.einsum("bchwij,ocij->bohw", windows, small.numpy().astype(np.int64))
    products = step.numpy().astype(np.float64) * scale
    exact = sums * products[:, None, None] + bias.numpy()[:, None, None]
    np.testing.assert_allclose(found, np.maximum(exact, 0), atol=1e-5)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_channel_that_training_left_without_weights_keeps_its_bias(engine):
    torch.manual_seed(2)
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 1)).eval()
    with torch.no_grad():
        module[1].weight[2], module[1].bias[2] = 1e-8, 1.5
    student = qat.prepare(module, (torch.rand(2, 3, 6, 6),), Scheme(weight_bits=7))
    x = RNG.standard_normal((4, 3, 6, 6)).astype(np.float32)
    qat.calibrate(student, [x])
    model = qat.to_onnx(student)
    (name,) = (spec.name for spec in model.signature.inputs)
    (found,) = engines.load(engine).load(model, engines.Options(precision="int8")).run({name: x}).values()
    expected = qat.scores(student, x)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.slow
def test_convolutions_and_linear_layers_run_in_whole_numbers(tmp_path):
    import onnx
    import onnxruntime

    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    ).eval()
    student = qat.prepare(module, (torch.rand(2, 1, 8, 8),))
    qat.calibrate(student, [pictures()])
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(to_proto(qat.to_onnx(student)).SerializeToString(), options)
    found = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert found.count("QLinearConv") == 2 and "QGemm" in found and "Conv" not in found


def test_weights_that_are_not_finite_are_not_exported():
    student = calibrated()
    with torch.no_grad():
        student.layers["last"].layer.weight[0, 0] = np.nan
    with pytest.raises(BadModelError, match=r"last.*not finite"):
        qat.to_onnx(student)


# what does not fit


def student_of(*layers):
    student = qat.prepare(nn.Sequential(*layers), (torch.rand(2, 4),))
    qat.calibrate(student, [np.ones((2, 4), np.float32)])
    return student


def test_without_a_scheme_it_is_that_of_this_machine():
    assert qat.prepare(nn.Sequential(nn.Linear(4, 3)), (torch.rand(2, 4),)).scheme == scheme_for(
        "onnxruntime", this_machine()
    )


@pytest.mark.parametrize("wrong", [np.ones(3, np.float32), np.ones((2, 5), np.float32)])
def test_calibration_data_of_another_shape_is_told(wrong):
    student = qat.prepare(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (torch.rand(2, 4),))
    with pytest.raises(ShapeError, match="does not take items of shape"):
        qat.calibrate(student, [wrong])


@pytest.mark.parametrize(
    "labels",
    [np.zeros((8, 2, 2), int), np.full(8, 7), np.zeros(8, np.float32)],
    ids=["rank", "class", "floats"],
)
def test_labels_that_do_not_fit_are_told(labels):
    with pytest.raises(ShapeError, match="does not take items of shape .* with labels"):
        qat.fit(student_of(nn.Linear(4, 3)), np.ones((8, 4), np.float32), labels)


def test_whole_numbers_and_doubles_are_taken():
    items, labels = np.ones((8, 4)), np.zeros(8, np.int32)
    qat.fit(student_of(nn.Linear(4, 3)), items, labels, recipe=qat.Recipe(epochs=1))


def test_what_is_not_calibrated_is_not_trained():
    student = qat.prepare(nn.Sequential(nn.Linear(4, 3)), (torch.rand(2, 4),))
    with pytest.raises(ConfigError, match="not calibrated"):
        qat.fit(student, np.ones((8, 4), np.float32), np.zeros(8, int))


def test_what_keeps_its_weights_in_floats_is_told():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.memory = nn.Linear(4, 4), nn.GRU(4, 4, batch_first=True)
            self.weight = nn.Parameter(torch.rand(3, 4))

        def forward(self, x):
            return nn.functional.linear(self.memory(self.inside(x))[0], self.weight)

    refused = qat.prepare(Mixed(), (torch.rand(2, 5, 4),)).refused
    assert "GRU is not rounded" in refused["memory"]
    assert any("called as a function" in why for why in refused.values())


# few bits


def test_layers_get_fewer_bits_until_the_bundle_is_as_small_as_asked(tmp_path):
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(64, 192), nn.ReLU(), nn.Linear(192, 192), nn.ReLU(), nn.Linear(192, 4))
    student = qat.prepare(module, (torch.rand(2, 64),), Scheme(weight_bits=7))  # no CPU saturates
    x = RNG.standard_normal((64, 64)).astype(np.float32)
    qat.calibrate(student, [x])
    target = 47_000  # there are 49,920 weights
    result = qat.fewer_bits(student, x, target)
    assert result.met and 1 <= len(result.layers) < 3
    assert {name for name, layer in student.layers.items() if layer.bits == 4} == set(result.layers)
    model = qat.to_onnx(student, name="model", batch_axis=None)
    Bundle.write(tmp_path / "b", model)
    assert sum(f.stat().st_size for f in (tmp_path / "b").iterdir()) == result.size_bytes <= target
    expected = qat.scores(student, x[:2])
    opened = Bundle.open(tmp_path / "b").model
    feeds = {opened.signature.inputs[0].name: x[:2]}
    for name in ("onnxruntime", "openvino"):
        found = engines.load(name).load(opened, engines.Options()).run(feeds)
        close_to_steps(next(iter(found.values())), expected, share=0.05)
    cheapest = min(
        result.sensitivity, key=lambda n: result.sensitivity[n] / module.get_submodule(n).weight.numel()
    )
    assert result.layers[0] == cheapest


@pytest.mark.slow
def test_a_size_that_cannot_be_reached_is_told():
    student = qat.prepare(nn.Sequential(nn.Linear(64, 3)), (torch.rand(2, 64),))
    x = RNG.standard_normal((16, 64)).astype(np.float32)
    qat.calibrate(student, [x])
    result = qat.fewer_bits(student, x, 100)
    assert not result.met and result.size_bytes > 100
    assert result.layers == ("0",) and student.layers["0"].bits == 4
    enough = qat.fewer_bits(student, x, 10**6)
    assert enough.met and not enough.layers and not enough.sensitivity
    with pytest.raises(ConfigError, match="impossible"):
        qat.fewer_bits(student, x, 0)


@pytest.mark.slow
def test_digits_are_read_as_well_in_a_quarter_of_the_bytes():
    data = zoo.data("digits")
    learned = zoo.train("resnet18_small", data, epochs=12, seed=0)
    student = qat.prepare(learned.model, (torch.from_numpy(data.train.items[:2]),))
    qat.calibrate(student, [data.train.items[:512]])
    full_bytes = 4 * 701_178
    made = qat.fewer_bits(student, data.train.items[:256], full_bytes * 24 // 100, name="resnet18_small")
    recipe = qat.Recipe(epochs=5)
    qat.fit(student, *data.train, recipe=recipe, teacher=learned.model, validation=data.validation)
    model = qat.to_onnx(student, name="resnet18_small", output_names=["logits"])
    assert made.met and qat.bundle_bytes(model) <= full_bytes * 0.25
    session = engines.load("onnxruntime").load(model, engines.Options())
    found = session.run({model.signature.inputs[0].name: data.test.items})["logits"]
    assert (found.argmax(1) == data.test.labels).mean() >= learned.test_accuracy - 0.01


def test_without_torch_the_message_says_what_to_install():
    probe = (
        "import sys; sys.modules['torch'] = None\n"
        "from raceline.convert import qat\n"
        "from raceline.core.errors import MissingDependencyError\n"
        "try: qat.prepare(None, ())\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "pip install 'raceline[train]'" in done.stdout
