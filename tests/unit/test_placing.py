"""Finished files get their names at one instant, and what killed writers left goes."""

import os
import subprocess
import sys

import pytest

from raceline.convert import placing
from raceline.core.errors import ConfigError

KILLED = """
import os, sys
from pathlib import Path
from raceline.convert import placing
with placing.workshop(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "net.mnn").write_text("old")
    with pytest.raises(RuntimeError), placing.workshop(tmp_path / "net.mnn") as folder:
        (folder / "new").write_text("new")
        raise RuntimeError
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mnn"]
    assert (tmp_path / "net.mnn").read_text() == "old"


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    target = tmp_path / "net.mnn"
    subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    with placing.workshop(target):
        assert left.exists()  # it may be that of a writer who has just begun
    os.utime(left, (0, 0))
    with placing.workshop(target) as mine:
        os.utime(mine, (0, 0))
        with placing.workshop(target):
            assert mine.exists()  # its writer lives
        assert [entry.name for entry in tmp_path.iterdir()] == [mine.name]


def test_a_pair_never_replaces(tmp_path):
    with placing.workshop(tmp_path / "net.xml") as folder:
        for name in ("a", "b"):
            (folder / name).write_text("new")
        (tmp_path / "net.bin").write_text("old")
        with pytest.raises(ConfigError, match="net.bin is there already"):
            placing.place_pair(folder / "a", folder / "b", tmp_path / "net.xml", tmp_path / "net.bin")
    assert (tmp_path / "net.bin").read_text() == "old" and not (tmp_path / "net.xml").exists()


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("old", "new"):
        with placing.workshop(tmp_path / "ir") as folder:
            for name in ("model.xml", "model.bin"):
                (folder / name).write_text(content)
            placing.place_folder([folder / "model.xml", folder / "model.bin"], tmp_path / "ir")
    assert {path.read_text() for path in (tmp_path / "ir").iterdir()} == {"new"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["ir"]
