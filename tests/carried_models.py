"""Pretrained models out of installed packages, ready to run; the test is skipped by name where one is absent."""

from functools import cache

import pytest
from benchmarks import _models as models

from raceline.convert import IRTranslator, settle


@cache
def settled(name):
    """The model and its sizes at batch 1."""
    if name in models.missing():
        pytest.skip(f"needs {name}: {models.INSTALL}")
    case = next(case for case in models.real_models() if case.name == name)
    values = {spec.name: spec.values for spec in case.inputs if spec.values}
    return settle(IRTranslator().parse(case.path), shapes=case.shapes(1), values=values)
