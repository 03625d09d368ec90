"""Every file in zoo/ is a model family that keeps the same promises."""

import pytest

import raceline.zoo
from raceline import zoo
from raceline.core import plugins

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
