"""Runs well with one thread and ends its process with two."""

import os

from raceline.engines import _double

description = "moody double"
tolerance = _double.TOLERANCE


def version():
    return "1"


def load(model, options):
    if options.threads == 2:
        os._exit(7)
    return _double.Session(model)
