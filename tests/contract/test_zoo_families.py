"""Every file in zoo/ is a model family that keeps the same promises."""

import dataclasses

import pytest

import raceline.zoo
from raceline import loop, zoo
from raceline.core import plugins
from raceline.loop.needs import shipped

torch = pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")

ENTRIES = zoo.list()


def is_switch(spec):
    """Whether an input is one of few numbers for an item, such as a command."""
    return spec.dtype.startswith("int") and len(spec.shape) == 1


def sample(entry):
    """Tensors for `entry`, from its inputs' ranges: two items, or one for each position of its switch."""
    from raceline.zoo._weights import sample

    positions = [
        torch.arange(int(s.values.low), int(s.values.high) + 1) for s in entry.inputs if is_switch(s)
    ]
    batch = max([2, *map(len, positions)])
    generator = torch.Generator().manual_seed(1)
    return [positions.pop(0) if is_switch(s) else sample(s, batch, generator) for s in entry.inputs]


def answer(model, inputs):
    """All outputs, as a tuple."""
    out = model(*inputs)
    return out if isinstance(out, tuple) else (out,)


def large(entry):
    """Whether the tests here take seconds of it; a smaller one of its family is in every run."""
    return entry.gflop > 10


@pytest.fixture(
    scope="module",
    params=[pytest.param(e, id=e.name, marks=[pytest.mark.slow] if large(e) else []) for e in ENTRIES],
)
def ran(request):
    """(entry, network, two or more items, outputs, largest activation of each layer), once for all tests here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would wait for one another wherever other tests run beside this
    model = zoo.get(request.param.name, seed=3)
    largest = []
    layers = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: largest.append(float(out.detach().abs().max())))
    inputs = sample(request.param)
    outputs = answer(model, inputs)
    yield request.param, model, inputs, outputs, largest[: len(layers)]
    torch.set_num_threads(threads)


def test_names_are_unique_and_every_file_has_a_model():
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert {entry.file for entry in ENTRIES} == set(plugins.names(raceline.zoo))


def test_every_family_has_a_model_in_every_run():
    assert {entry.file for entry in ENTRIES if not large(entry)} == {entry.file for entry in ENTRIES}


def test_what_is_published_can_be_compared_and_found_again():
    for entry in ENTRIES:
        assert entry.task in zoo.TASKS and entry.source
        told = entry.published
        assert told is None or (0 < told.value < 1 and told.metric and told.data and told.source)


def test_what_is_published_was_found_where_it_is_said_to_stand():
    """Each figure again, as the named page or paper prints it; looked up on 2026-11-26."""
    printed = {
        "resnet18": 69.758, "resnet34": 73.314, "resnet50": 76.130, "resnet101": 77.374, "resnet152": 78.312,
        "mobilenet_v2": 71.878, "mobilenet_v3_large": 74.042, "vit_tiny": 72.2, "yolov8n": 37.3,
        "resnet20": 100 - 8.75, "resnet32": 100 - 7.51, "resnet44": 100 - 7.17, "resnet56": 100 - 6.97,
        "resnet110": 100 - 6.43, "deeplabv3_mobilenet_v2": 75.32, "deeplabv3_mobilenet_v2_aspp": 75.70,
        "fast_scnn": 68.0,
    }  # fmt: skip
    told = {entry.name: 100 * entry.published.value for entry in ENTRIES if entry.published}
    assert told == pytest.approx(printed)


def test_a_table_of_what_networks_need_is_whole():
    """`make zoo-needs` writes it; without a row a network is exported before it can be estimated."""
    for entry in ENTRIES:
        needs = shipped(entry)
        assert needs is not None, f"{entry.name}: run make zoo-needs"
        # Convolutions and linear layers are all counted; attention, activations and norms come on top.
        assert 1e9 * entry.gflop * 0.97 < needs.flops < 1e9 * entry.gflop * 1.35, entry.name
        assert 0.9 * entry.parameters < needs.least_elements


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(e, id=e.name, marks=[] if e.name in {"pilotnet", "resnet20"} else [pytest.mark.slow])
        for e in ENTRIES
    ],
)
def test_the_table_holds_what_is_counted_anew(entry):
    anew, kept = loop.count_network(entry), shipped(entry)
    # A pass that learns to fuse more may move a little less than when the table was written.
    assert kept.flops == pytest.approx(anew.flops, rel=0.03)
    assert kept.elements == pytest.approx(anew.elements, rel=0.05)
    assert kept.least_elements == pytest.approx(anew.least_elements, rel=0.05)


def test_a_row_of_another_network_is_not_used():
    (entry,) = (e for e in ENTRIES if e.name == "pilotnet")
    assert shipped(entry) is not None
    for change in ({"parameters": entry.parameters + 1}, {"gflop": 1.0}, {"inputs": ()}, {"name": "another"}):
        assert shipped(dataclasses.replace(entry, **change)) is None


def test_a_model_is_what_its_entry_says(ran):
    entry, model, _, outputs, _ = ran
    assert all(spec.shape[0] == "batch" and spec.values for spec in entry.inputs)
    assert not any(module.training for module in model.modules())
    assert sum(weight.numel() for weight in model.parameters()) == entry.parameters
    assert len(outputs) == len(entry.outputs)


def test_items_of_a_batch_do_not_know_each_other(ran):
    _, model, inputs, outputs, _ = ran
    with torch.no_grad():
        alone = answer(model, [x[1:2] for x in inputs])
    for stacked, single in zip(outputs, alone, strict=True):
        near = 1e-4 * float(single.abs().max())
        torch.testing.assert_close(stacked[1:2].detach(), single, rtol=0, atol=near)


def test_activations_neither_die_nor_run_away(ran):
    *_, outputs, largest = ran
    assert 0.1 < min(largest) and max(largest) < 300
    for out in outputs:
        assert torch.isfinite(out).all()
        # Two items are told apart: the network has not collapsed to a constant.
        apart = float((out[0] - out[1]).detach().square().mean().sqrt())
        assert apart > 0.01 * float(out.detach().std())


def test_no_weight_is_idle(ran):
    _, model, _, outputs, _ = ran
    sum(out.square().mean() for out in outputs).backward()
    assert not [name for name, w in model.named_parameters() if w.requires_grad and not w.grad.any()]
