"""Damaged files: whatever is wrong with them, the answer is an error of ours or a model, and soon."""

import random

import pytest
from tflite_cases import CASES

from raceline.convert.readers import tflite
from raceline.core.errors import RacelineError

MODELS = [case.model() for case in CASES]
ENDS = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0\0\0\0")


def damaged(rng):
    """A model that is cut off, has a few other bytes, or an offset or length that leads far away."""
    data = bytearray(rng.choice(MODELS))
    kind = rng.random()
    if kind < 0.2:
        return data[: rng.randrange(8, len(data))]
    if kind < 0.8:
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            data[rng.randrange(8, len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        return data
    place = rng.randrange(8, len(data) - 4) & ~3
    data[place : place + 4] = rng.choice([*ENDS, rng.randrange(1 << 16).to_bytes(4, "little")])
    return data


def survives(folder, seeds):
    path = folder / "damaged.tflite"
    refused = 0
    for seed in seeds:
        path.write_bytes(damaged(random.Random(seed)))
        try:
            tflite.read(path)
        except RacelineError as error:
            refused += 1
            assert str(error)
    return refused


def test_damage_is_told(tmp_path):
    assert survives(tmp_path, range(400)) > 200


@pytest.mark.slow
@pytest.mark.parametrize("block", range(8))
def test_much_damage_is_told(tmp_path, block):
    assert survives(tmp_path, range(1000 * block + 1000, 1000 * block + 2000)) > 500


def test_every_truncation_is_told(tmp_path):
    data, path = MODELS[0], tmp_path / "cut.tflite"
    for size in range(0, len(data) - 1, 7):
        path.write_bytes(data[:size])
        try:
            tflite.read(path)
        except RacelineError:
            continue
        assert size > len(data) - 64, "only what nobody needs lies at the end"
