"""Ends its process by a segmentation fault at the first call."""

import os
import signal

from raceline.engines import _double

description = "crashing double"
tolerance = _double.TOLERANCE


def version():
    return "1"


def crash():
    os.write(2, b"last words of the crashing engine")
    os.kill(os.getpid(), signal.SIGSEGV)


def load(model, options):
    return _double.Session(model, crash)
