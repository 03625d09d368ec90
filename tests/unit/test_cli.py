"""The command line's edges: exit codes, option syntax, help."""

import inspect

import pytest

from raceline import cli
from raceline.core import errors

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.RacelineError)]


@pytest.mark.parametrize("kind", [c for c in ALL if c is not errors.RacelineError])
def test_every_error_has_an_exit_code(kind):
    wanted = 2 if issubclass(kind, errors.RequestError) else 1
    assert cli.exit_code(kind.__new__(kind)) == wanted


@pytest.mark.parametrize("text", ["x", "=1,2", "x=1,2b", "x=1,0", "x=-1"])
def test_a_bad_shape_says_how_to_write_it(text):
    with pytest.raises(errors.ConfigError, match="--shape NAME="):
        cli.pairs([text], "--shape", cli.shape)


def test_shapes_and_values_parse():
    assert cli.pairs(["a:0=1,2", "b="], "--shape", cli.shape) == {"a:0": (1, 2), "b": ()}


@pytest.mark.parametrize("command", cli.app.registered_commands, ids=lambda c: c.callback.__name__)
def test_every_command_shows_an_example(command):
    assert "Example: raceline " in command.callback.__doc__
