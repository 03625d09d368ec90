"""Takes no model."""

from raceline.core.errors import UnsupportedOperatorError
from raceline.engines import _double

description = "refusing double"
tolerance = _double.TOLERANCE


def version():
    return "1"


def load(model, options):
    raise UnsupportedOperatorError(model.name, {"Conv": ["conv1"], "Relu": ["relu1"]}, "Try another engine.")
