"""What training in few bits cannot take is told."""

import numpy as np
import pytest
import torch
from torch import nn

from raceline.convert import qat
from raceline.core.errors import ConfigError, ShapeError


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def labelled(count):
    generator = np.random.default_rng(0)
    return generator.random((count, 1, 8, 8), np.float32), generator.integers(0, 3, count)


@pytest.mark.parametrize("wrong", [100, -1])
def test_classes_that_validation_lacks_are_told(wrong):
    items, labels = labelled(32)
    with pytest.raises(ShapeError, match="32 labels, .* do not fit 32 items of . classes. Give one of 0 to"):
        qat.fit(network(), items, labels, recipe=qat.Recipe(epochs=1), validation=(items, labels + wrong))
    with pytest.raises(ShapeError, match="31 labels, .* do not fit 32 items"):
        qat.accuracy(network(), items, labels[1:])


def test_what_is_no_network_is_told():
    with pytest.raises(ConfigError, match="int is no network"):
        qat.prepare(3, (torch.rand(2, 3, 6, 6),))
