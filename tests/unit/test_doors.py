"""A room is entered by its door: `from raceline.ROOM import NAME`, with NAME in the door's `__all__`."""

import ast
from pathlib import Path

import pytest

import raceline

SOURCE = Path(raceline.__file__).parent
OPEN = {"core", "ir"}  # shared vocabulary: their modules may be imported directly


def door(room):
    """The names a room offers."""
    file = SOURCE / room / "__init__.py"
    tree = ast.parse((file if file.exists() else SOURCE / f"{room}.py").read_text())
    for node in tree.body:
        target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
        if target is not None and ast.unparse(target) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def imports(tree):
    """(line, module, name or None) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name, None) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, node.module, a.name) for a in node.names)


def trespasses(own, text):
    """Imports that enter another room past its door."""
    for line, module, name in imports(ast.parse(text)):
        package, _, inside = module.partition(".")
        room, _, deeper = inside.partition(".")
        if package != "raceline" or not room or room in OPEN | {own}:
            continue
        if deeper or (name and name not in door(room)):
            yield f"line {line}: {module} {name or ''}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_other_rooms_are_entered_by_their_door(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert not list(trespasses(own, path.read_text()))


def test_a_trespass_is_seen():
    assert list(trespasses("loop", "from raceline.engines.mnn import load"))
    assert list(trespasses("loop", "from raceline.engines import plugins"))
    assert not list(
        trespasses("loop", "from raceline.engines import load\nfrom raceline.ir.model import Model")
    )
