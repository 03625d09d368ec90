"""Is fast, and one element in a hundred is wrong."""

from raceline.engines import _double

description = "lying double"
tolerance = _double.TOLERANCE


def version():
    return "1"


def lie(outputs):
    return {name: array + (array == array.max()) for name, array in outputs.items()}


def load(model, options):
    return _double.Session(model, change=lie)
