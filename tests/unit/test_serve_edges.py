"""The one table from errors to gRPC statuses, and the texts that travel."""

import inspect

import pytest

from raceline.core import errors
from raceline.serve.grpc_front import STATUS_OF, status_of

CLASSES = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.RacelineError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_status(cls):
    assert cls in STATUS_OF, f"add {cls.__name__} to STATUS_OF"
    import grpc

    assert STATUS_OF[cls] in grpc.StatusCode.__members__


def test_a_subclass_that_is_not_in_the_table_has_its_parents_status():
    class Odd(errors.ShapeError):
        pass

    assert status_of(Odd("odd"))[0] == "INVALID_ARGUMENT"


def test_what_is_not_ours_is_internal_and_named():
    assert status_of(ValueError("boom")) == ("INTERNAL", "ValueError: boom")


def test_long_texts_are_cut():
    status, text = status_of(errors.ShapeError("x" * 10_000))
    assert status == "INVALID_ARGUMENT"
    assert len(text) < 2000
