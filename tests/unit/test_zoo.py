"""The zoo's networks have the published shapes, behave as drawn, and export as users would export them."""

import subprocess
import sys

import numpy as np
import pytest

from raceline import zoo
from raceline.core.errors import ConfigError, UnknownNameError

# Name -> (parameters, GFLOP of convolutions and linear layers), as published or in the field's model tables.
PUBLISHED = {
    "resnet18": (11_689_512, 3.63),
    "resnet50": (25_557_032, 8.18),
    "mobilenet_v2": (3_504_872, 0.60),
    "mobilenet_v3_large": (5_483_032, 0.43),
    "yolov8n": (3_157_200, 8.7 / 4),  # published at 640 pixels
    "vit_tiny": (5_717_416, 2.15),
    "minilm_l6": (22_713_216, 2.72),
    # Published blocks at our own widths: as built, and the first counted anew below.
    "resnet18_small": (701_178, 0.0153),
    "mobilenet_v2_small": (590_122, 0.0090),
}


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    usual = module.get_num_threads()
    module.set_num_threads(1)  # more would wait for one another wherever other tests run beside this
    yield module
    module.set_num_threads(usual)


def entry_of(name):
    return next(entry for entry in zoo.list() if entry.name == name)


def sample(entry, batch, torch):
    from raceline.zoo._weights import sample

    generator = torch.Generator().manual_seed(7)
    return [sample(spec, batch, generator) for spec in entry.inputs]


def answer(model, inputs, torch):
    with torch.no_grad():
        out = model(*inputs)
    return [o.numpy() for o in (out if isinstance(out, tuple) else (out,))]


def test_the_list_holds_the_published_models(torch):
    assert {entry.name: entry.parameters for entry in zoo.list()} == {n: p for n, (p, _) in PUBLISHED.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_works_as_much_as_published(name, torch):
    from torch.utils.flop_counter import FlopCounterMode

    entry = entry_of(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        entry.build().eval()(*sample(entry, 1, torch))
    counts = {str(op): flop for op, flop in counter.get_flop_counts()["Global"].items()}
    layers = counts.get("aten.convolution", 0) + counts.get("aten.addmm", 0)
    assert layers / 1e9 == pytest.approx(PUBLISHED[name][1], abs=0.006, rel=0.006)
    assert entry.gflop == pytest.approx(layers / 1e9, abs=0.006)


def test_the_small_resnet_has_the_blocks_of_the_large_one(torch):
    total, wide_in = 9 * 16 + 2 * 16, 16
    for width in (16, 32, 64, 128):
        total += 9 * width * (wide_in + 3 * width) + 4 * 2 * width
        total += wide_in * width + 2 * width if wide_in != width else 0
        wide_in = width
    assert total + 128 * 10 + 10 == entry_of("resnet18_small").parameters


def test_the_seed_decides_all_weights_and_nothing_else_moves(torch):
    before = torch.random.get_rng_state()
    first, again, other = (zoo.get("mobilenet_v2", seed=s).state_dict() for s in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if not key.endswith("num_batches_tracked")]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_folding_a_batchnorm_has_something_to_fold(torch):
    norms = [m for m in zoo.get("resnet18").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 20
    for norm in norms:
        for spread in (norm.weight, norm.bias, norm.running_mean, norm.running_var.log()):
            assert float(spread.detach().std()) > 0.05
        assert norm.momentum == 0.1


@pytest.mark.parametrize(
    ("name", "count"), [("mobilenet_v2", 10), ("mobilenet_v3_large", 10), ("yolov8n", 6)]
)
def test_a_block_whose_branch_is_silent_passes_its_input_on(name, count, torch):
    blocks = [m for m in zoo.get(name).modules() if getattr(m, "added", False)]
    assert len(blocks) == count
    for block in blocks:
        norms = [m for m in block.branch.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        torch.nn.init.zeros_(norms[-1].weight)
        torch.nn.init.zeros_(norms[-1].bias)
        channels = next(m for m in block.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
        x = torch.rand(1, channels, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(block.eval()(x), x)


def test_box_edges_are_expected_bins(torch):
    from raceline.zoo.yolo import EdgeExpectation

    scores = torch.full((1, 4, 16, 1), -50.0)
    for edge, bins in enumerate(((1,), (2, 4), (0,), (15,))):
        scores[0, edge, [*bins]] = 50.0
    distances = EdgeExpectation()(scores.reshape(1, 64, 1))
    torch.testing.assert_close(distances.flatten(), torch.tensor([1.0, 3.0, 0.0, 15.0]))


def test_boxes_lie_around_their_anchor_in_pixels(torch):
    from raceline.zoo.yolo import Detect

    detect = Detect((8, 8, 8), num_classes=2).eval()
    maps = tuple(torch.zeros(1, 8, 64 // s, 32 // s) for s in (8, 16, 32))
    for branch in detect.edges:  # left and top far, right and bottom near
        torch.nn.init.zeros_(branch[2].weight)
        bias = torch.full((4, 16), -50.0)
        bias[[0, 1, 2, 3], [3, 2, 1, 0]] = 50.0
        branch[2].bias.data = bias.flatten()
    with torch.no_grad():
        boxes = detect(maps)[0, :4]
    assert boxes.shape == (4, 8 * 4 + 4 * 2 + 2 * 1)
    # Left 3, top 2, right 1, bottom 0 cells from the centre of a cell: the box's centre is off by -1, -1.
    for anchor, stride in ((0, 8), (32, 16), (40, 32)):
        expected = torch.tensor([0.5 - 1, 0.5 - 1, 4.0, 2.0]) * stride
        torch.testing.assert_close(boxes[:, anchor], expected, atol=1e-4, rtol=0)
    # The next anchor is one cell to the right, the row's length further one cell down.
    torch.testing.assert_close(boxes[:2, 1] - boxes[:2, 0], torch.tensor([8.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(boxes[:2, 4] - boxes[:2, 0], torch.tensor([0.0, 8.0]), atol=1e-4, rtol=0)


def test_padding_does_not_reach_the_text(torch):
    model = zoo.get("minilm_l6")
    ids, _, segments = sample(entry_of("minilm_l6"), 1, torch)
    mask = torch.ones_like(ids)
    mask[:, 100:] = 0
    other = ids.clone()
    other[:, 100:] = 17
    first, second = (answer(model, (x, mask, segments), torch)[0] for x in (ids, other))
    np.testing.assert_allclose(first[:, :100], second[:, :100], atol=1e-5)
    assert np.abs(first[:, 100:] - second[:, 100:]).max() > 0.1
    seen = answer(model, (other, torch.ones_like(ids), segments), torch)[0]
    assert np.abs(seen[:, :100] - second[:, :100]).max() > 0.01


def test_an_unknown_name_is_answered_with_those_there_are(torch):
    with pytest.raises(UnknownNameError, match=r"resnet81.*minilm_l6.*yolov8n"):
        zoo.get("resnet81")


@pytest.mark.parametrize("batch", [0, -1, "many", 1.5])
def test_an_impossible_batch_is_refused(batch, tmp_path, torch):
    with pytest.raises(ConfigError, match="dynamic"):
        zoo.export_onnx("resnet18", tmp_path / "x.onnx", batch=batch)
    assert not [*tmp_path.iterdir()]


def test_a_path_that_cannot_be_written_is_refused(tmp_path, torch):
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file" / "x.onnx", tmp_path):
        with pytest.raises(ConfigError, match="cannot write"):
            zoo.export_onnx("resnet18", path)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failed_save_leaves_the_old_file(tmp_path, torch):
    from raceline.zoo._export import _save

    class FullDisk:
        def save(self, path, external_data):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    path = tmp_path / "x.onnx"
    path.write_text("old")
    with pytest.raises(ConfigError, match="No space left"):
        _save(FullDisk(), path)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_without_torch_the_message_says_what_to_install():
    probe = (
        "import sys; sys.modules['torch'] = None\n"
        "from raceline import zoo\n"
        "from raceline.core.errors import MissingDependencyError\n"
        "try: zoo.get('resnet18')\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "pip install 'raceline[train]'" in done.stdout


def exported(name, path, **options):
    """The file as onnx reads it, checked."""
    import onnx

    zoo.export_onnx(name, path, **options)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def shape_of(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def in_onnxruntime(path, entry, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {spec.name: x.numpy() for spec, x in zip(entry.inputs, inputs, strict=True)}
    return session.run([*entry.outputs], feed)


def in_openvino(path, entry, inputs):
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(str(path), "CPU", settings)
    result = compiled({spec.name: x.numpy() for spec, x in zip(entry.inputs, inputs, strict=True)})
    return [result[name] for name in entry.outputs]


def assert_same(ours, theirs, share):
    """Every output agrees within `share` of its largest value."""
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=share * np.abs(a).max())


@pytest.mark.parametrize(
    "name", ["resnet18", *(pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED if n != "resnet18")]
)
def test_an_export_has_a_named_batch_and_the_same_numbers(name, tmp_path, torch):
    entry = entry_of(name)
    path = tmp_path / "deep" / "model.onnx"
    model = exported(name, path, seed=2)
    assert [*path.parent.iterdir()] == [path]
    assert model.ir_version <= 10 and [o.version for o in model.opset_import] == [18]
    assert [shape_of(value) for value in model.graph.input] == [[*spec.shape] for spec in entry.inputs]
    assert [value.name for value in model.graph.output] == [*entry.outputs]
    assert all(shape_of(value)[0] == "batch" for value in model.graph.output)
    network = zoo.get(name, seed=2)
    for batch in (1, 8):
        inputs = sample(entry, batch, torch)
        ours = answer(network, inputs, torch)
        assert_same(ours, in_onnxruntime(path, entry, inputs), 1e-4)
        assert_same(ours, in_openvino(path, entry, inputs), 1e-4)


def test_several_inputs_share_one_batch_axis(tmp_path, torch):
    entry = entry_of("minilm_l6")
    model = exported("minilm_l6", tmp_path / "model.onnx")
    assert [shape_of(value) for value in model.graph.input] == [["batch", 128]] * 3
    inputs = sample(entry, 3, torch)
    ours = answer(zoo.get("minilm_l6"), inputs, torch)
    assert_same(ours, in_onnxruntime(tmp_path / "model.onnx", entry, inputs), 1e-4)


def test_a_fixed_batch_and_an_unoptimised_graph_can_be_had(tmp_path, torch):
    model = exported("resnet18", tmp_path / "fixed.onnx", batch=1, optimise=False)
    assert shape_of(model.graph.input[0]) == [1, 3, 224, 224]
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 20
    inputs = sample(entry_of("resnet18"), 1, torch)
    ours = answer(zoo.get("resnet18"), inputs, torch)
    assert_same(ours, in_onnxruntime(tmp_path / "fixed.onnx", entry_of("resnet18"), inputs), 1e-4)
