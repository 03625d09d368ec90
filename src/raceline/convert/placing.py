"""Put finished files where they were asked for, so that a kill leaves the old content or the new."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raceline.core.errors import ConfigError
from raceline.ir.store import explained, flush, lock, replacing

_SETTLING_NS = 2_000_000_000  # a writer that has just made its folder may not have locked it yet


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make files in: on the same disk, so that they only have to be renamed.

    What killed writers of this target left behind is removed.

    Raises:
        ConfigError: the place may not be written.
        UnavailableError: the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target)
        with tempfile.TemporaryDirectory(prefix=_prefix(target), dir=target.parent) as made:
            holder = lock(Path(made))
            try:
                yield Path(made)
            finally:
                os.close(holder)
    except OSError as error:
        raise explained(error, target) from error


def _prefix(target: Path) -> str:
    return f".{target.name}.making-"


def _tidy(target: Path) -> None:
    """Remove the workshops of writers that no longer live: a living one holds a lock on its own."""
    for left in target.parent.iterdir():
        try:
            if not left.name.startswith(_prefix(target)) or _is_fresh(left):
                continue
            holder = lock(left)
        except OSError:  # its writer lives, or has just removed it, or it is somebody else's
            continue
        shutil.rmtree(left, ignore_errors=True)
        os.close(holder)


def _is_fresh(folder: Path) -> bool:
    return time.time_ns() - folder.stat().st_mtime_ns <= _SETTLING_NS


def place(made: Path, target: Path) -> Path:
    """Give one finished file its name, in place of a file that may be there.

    Raises:
        ConfigError: a folder stands there.
    """
    if target.is_dir():
        raise ConfigError(f"{target} is a folder", next_step="Give a file name.")
    flush(made)
    made.replace(target)
    flush(target.parent)
    return target


def place_pair(main: Path, second: Path, target: Path, second_target: Path) -> list[Path]:
    """Give two files that belong together their names, where none of them is taken.

    Two names cannot change at one instant; a kill between them would leave a new file beside an old one, which
    no reader notices. So nothing is replaced, and the main file comes last.

    Raises:
        ConfigError: one of the names is taken.
    """
    for path in (target, second_target):
        if path.exists():
            raise ConfigError(
                f"{path} is there already",
                "the format is two files, which cannot be replaced at one instant",
                "Remove it, or give a folder's name: a folder is replaced as a whole.",
            )
    return [place(second, second_target), place(main, target)][::-1]


def place_folder(made: list[Path], target: Path) -> list[Path]:
    """Make a folder of these files, in place of an earlier one, at one instant.

    Raises:
        ConfigError: the folder holds other files than an earlier one of these names, or is no folder.
        UnavailableError: the disk is full.
    """
    names = {path.name for path in made}
    if target.exists():
        others = (
            sorted({path.name for path in target.iterdir()} - names) if target.is_dir() else [target.name]
        )
        if others:
            raise ConfigError(
                f"{target} is not replaced",
                f"it holds other files ({', '.join(others[:5])})" if target.is_dir() else "it is a file",
                "Choose another name.",
            )
    with replacing(target, sum(path.stat().st_size for path in made)) as fresh:
        for path in made:
            shutil.move(path, fresh / path.name)
    return [target / path.name for path in made]
