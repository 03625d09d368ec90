"""Documents name only what exists."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from raceline import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROOMS = {p.name for p in (ROOT / "src/raceline").iterdir() if (p / "__init__.py").exists()}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^(?:`)?make ([a-z-]+)", path.read_text(), re.M)) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_parse(path):
    program = typer.main.get_command(cli.app)
    for line in re.findall(r"^(?:\.venv/bin/)?raceline ([a-z].*)$", path.read_text(), re.M):
        name, *arguments = shlex.split(line)
        program.commands[name].make_context(name, arguments)


def test_architecture_names_every_room_and_only_those():
    rows = re.findall(r"^\| (\w+) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.M)
    assert set(rows) - {"room"} == ROOMS


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = (ROOT / "docs/decisions/0002-dependencies.md").read_text()
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in wanted} - {"raceline"}
    assert [name for name in sorted(names) if name not in listed] == []


def test_decisions_are_numbered_without_gaps():
    records = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(r.name[:4]) for r in records] == list(range(1, len(records) + 1))
    assert [int(re.match(r"# (\d+)\.", r.read_text())[1]) for r in records] == list(
        range(1, len(records) + 1)
    )


def test_no_file_is_over_six_hundred_lines():
    files = [
        p
        for folder in ("src", "tests", "benchmarks", "native", "examples")
        for p in (ROOT / folder).rglob("*.[chp]*")
    ]
    assert [
        f"{p.name}"
        for p in files
        if p.suffix in {".py", ".cpp", ".hpp"} and len(p.read_text().splitlines()) > 600
    ] == []
