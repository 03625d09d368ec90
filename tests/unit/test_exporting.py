"""The child process that exports; the scripts here stand in for frameworks."""

import pytest

import raceline.convert.exporters as scripts
from raceline.convert.exporting import exported
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, MissingDependencyError

HEAD = "import json, os, pathlib, signal, sys, time\ngiven = json.load(sys.stdin)\n"
ANSWER = "pathlib.Path(given['answer']).write_text(json.dumps({}))\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(scripts, "__path__", [str(tmp_path)])

    def run(body, **options):
        (tmp_path / "script.py").write_text(HEAD + body)
        with exported("script", {"x": 2}, source="a.model", extra="torch", **options) as (folder, answer):
            return sorted(path.name for path in folder.iterdir()), answer

    return run


def test_it_answers_and_leaves_files(run):
    body = "print('chatty')\nopen(os.path.join(given['folder'], 'made'), 'w').close()\n"
    files, answer = run(body + ANSWER.format("{'twice': 2 * given['x']}"))
    assert answer == {"twice": 4}
    assert files == ["answer.json", "made"]


@pytest.mark.parametrize(
    "body, error, message",
    [
        (ANSWER.format("{'missing': 'torch'}"), MissingDependencyError, r"a\.model.*raceline\[torch\]"),
        (ANSWER.format("{'error': 'no such layer'}"), BadModelError, r"a\.model.*no such layer"),
        ("sys.exit('it broke')\n", BackendLostError, r"a\.model.*status 1.*it broke"),
        ("os.kill(os.getpid(), signal.SIGSEGV)\n", BackendLostError, r"a\.model.*SIGSEGV"),
    ],
)
def test_failures_are_told(run, body, error, message):
    with pytest.raises(error, match=message):
        run(body)


def test_it_is_ended_when_it_takes_too_long(run):
    with pytest.raises(BackendLostError, match=r"a\.model took longer than 0\.5 s"):
        run("time.sleep(60)\n", timeout_s=0.5)


def test_an_interpreter_that_is_not_there(run):
    with pytest.raises(ConfigError, match="nowhere/python"):
        run(ANSWER.format("{}"), python="nowhere/python")
