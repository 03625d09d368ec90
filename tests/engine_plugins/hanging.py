"""Never comes back from a call."""

import time

from raceline.engines import _double

description = "hanging double"
tolerance = _double.TOLERANCE


def version():
    return "1"


def load(model, options):
    return _double.Session(model, lambda: time.sleep(3600))
