"""Random weights under which every layer matters and nothing grows or dies, as in a trained network."""

from math import prod

import torch
from torch import Generator, Tensor, nn

from raceline.core.errors import InvariantError
from raceline.ir import TensorSpec
from raceline.zoo import Entry

# What BatchNorm's statistics are taken from: enough items, half of them noise, that others stay within scale.
# Of large pictures one and one of noise are enough: each channel still sees a thousand places of them.
SETTLING_BATCH, SETTLING_BATCH_LARGE = 8, 2
LARGE_PIXELS = 200_000


def initialised(entry: Entry, seed: int) -> nn.Module:
    """The network of `entry` in eval mode, all weights drawn from `seed`."""
    # The layers' own initialisation is overwritten; it only must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = entry.build()
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    with torch.no_grad():
        for module in model.modules():
            _draw(module, generator)
        _settle(model, entry, generator)
    return model


def sample(spec: TensorSpec, batch: int, generator: Generator) -> Tensor:
    """A tensor such as input `spec` may see: integers of its range; pictures and plain noise in turn; or numbers.

    Raises:
        InvariantError: `spec` states no range.
    """
    if spec.values is None:
        raise InvariantError(f"{spec} states no range of values")
    low, high = spec.values.low, spec.values.high
    shape = [batch, *(int(dim) for dim in spec.shape[1:])]
    if spec.dtype.startswith("int"):
        dtype = getattr(torch, spec.dtype)
        return torch.randint(int(low), int(high) + 1, shape, generator=generator, dtype=dtype)
    if len(shape) != 4:
        return low + (high - low) * torch.rand(shape, generator=generator)
    items = _pictures(shape, generator)
    items[1::2].uniform_(generator=generator)
    return low + (high - low) * items


def _pictures(shape: list[int], generator: Generator) -> Tensor:
    """Light, shade and grain in 0..1, (B, C, H, W)."""
    patches = torch.randn([*shape[:2], 6, 6], generator=generator)
    smooth = nn.functional.interpolate(patches, shape[2:], mode="bilinear")
    brightness = torch.randn([*shape[:2], 1, 1], generator=generator)
    grain = torch.randn(shape, generator=generator)
    return torch.sigmoid(smooth + 0.5 * brightness + 0.5 * grain)


def _draw(module: nn.Module, generator: Generator) -> None:
    """Fill the parameters that `module` itself holds, those of its children apart."""
    norm = isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))
    for name, weight in module.named_parameters(recurse=False):
        if not weight.requires_grad:
            continue  # fixed by the architecture
        if norm and name == "weight":
            weight.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and name == "weight":
            # Unit variance in, unit variance out, before the activation.
            weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)
        elif name == "bias":
            weight.normal_(0.0, 0.2, generator=generator)
        else:
            weight.normal_(0.0, 0.5, generator=generator)  # tokens, positions, embeddings


def _settling_batch(entry: Entry) -> int:
    pixels = max(prod(int(dim) for dim in spec.shape[2:]) for spec in entry.inputs)
    return SETTLING_BATCH_LARGE if pixels > LARGE_PIXELS else SETTLING_BATCH


def _settle(model: nn.Module, entry: Entry, generator: Generator) -> None:
    """Give each BatchNorm the statistics of what reaches it, moved as if other data had followed.

    One pass in order of execution, so that each layer sees what its already settled forerunners really send.
    """

    def settle(norm: nn.BatchNorm2d, arguments: tuple[Tensor]) -> None:
        x_BCHW = arguments[0]
        noise = torch.randn([2, norm.num_features], generator=generator)
        variance_C, mean_C = torch.var_mean(x_BCHW, dim=(0, 2, 3))
        norm.running_mean.copy_(mean_C + 0.2 * noise[0] * variance_C.sqrt())
        norm.running_var.copy_(variance_C * torch.exp(0.2 * noise[1]))
        norm.num_batches_tracked.fill_(1)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    if norms:
        model(*(sample(spec, _settling_batch(entry), generator) for spec in entry.inputs))
    for hook in hooks:
        hook.remove()
