"""Computes the reference; no faster."""

from raceline.engines import _double

description = "honest double"
tolerance = _double.TOLERANCE


def version():
    return "1"


def load(model, options):
    return _double.Session(model)
