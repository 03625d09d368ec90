"""Replace a folder at one instant: whoever looks sees the old content or the new, whenever the power fails.

A new sibling is filled and flushed, then both change names in one system call (Linux renameat2 with
RENAME_EXCHANGE). So a folder of fixed file names stays a plain folder that is copied, moved and mounted like
any other, which a link to versions could not. Where the call does not exist, two renames follow each other;
between them the old folder stands under a name that readers look for.

The half-filled siblings of a killed writer are removed by the next one; a living writer holds a lock on its
own.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raceline.core.errors import ConfigError, RacelineError, UnavailableError
from raceline.core.units import format_bytes

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replacing(folder: Path, needed_bytes: int) -> Iterator[Path]:
    """A new empty folder that takes the place of `folder` when the block ends well.

    Files written in the block are flushed to the disk before the names change.

    Args:
        folder: need not exist; its parent is made where absent.
        needed_bytes: what will be written, so that a full disk is told before anything is.

    Raises:
        ConfigError: the place may not be written.
        UnavailableError: the disk is full. What stood at `folder` stands there still.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent):
            _tidy(folder)
            fresh = _sibling(folder, "new")
            fresh.mkdir()
            holder = lock(fresh)
        try:
            check_room(folder, needed_bytes)
            yield fresh
            _flush_all(fresh)
            with _locked(folder.parent):
                _put(fresh, folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)  # the old content, or what a failure left
            os.close(holder)
    except OSError as error:
        raise explained(error, folder) from error


def current(folder: Path) -> Path:
    """Where the content of `folder` stands now: there, or, for an instant of a replacement, beside it."""
    if not folder.exists():
        for old in _siblings(folder, "old"):
            return old
    return folder


def explained(error: OSError, place: Path) -> RacelineError:
    """What an error of the file system means for whoever wants to write at `place`."""
    if error.errno in _FULL:
        return UnavailableError(
            f"{place} cannot be written",
            "the disk is full, or a limit on file sizes is reached",
            "Free some space and run again; nothing that was there is lost.",
        )
    why = error.strerror or str(error)
    next_step = "Choose a folder you may write." if error.errno in _FORBIDDEN else ""
    return ConfigError(f"{place} cannot be written", why, next_step)


def exchange(one: Path, other: Path) -> None:
    """Let two paths change names at one instant.

    Raises:
        OSError: the file system cannot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    paths = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def _put(fresh: Path, folder: Path) -> None:
    """Give `fresh` the name of `folder`; the old content gets the name of `fresh`, or is removed."""
    if not folder.exists():
        fresh.rename(folder)
    else:
        try:
            exchange(fresh, folder)
        except OSError as error:
            if error.errno not in _NO_EXCHANGE:
                raise
            old = _sibling(folder, "old")
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
    flush(folder.parent)


def _tidy(folder: Path) -> None:
    """Finish or undo what killed writers left; only under the parent's lock."""
    for old in _siblings(folder, "old"):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)
    for fresh in _siblings(folder, "new"):
        try:
            holder = lock(fresh)
        except OSError:
            continue  # its writer lives
        shutil.rmtree(fresh, ignore_errors=True)
        os.close(holder)


def _sibling(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}-{secrets.token_hex(6)}")


def _siblings(folder: Path, kind: str) -> list[Path]:
    prefix = f".{folder.name}.{kind}-"
    try:
        return [entry for entry in folder.parent.iterdir() if entry.name.startswith(prefix)]
    except FileNotFoundError:
        return []


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder's list of names."""
    holder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(holder)


def lock(folder: Path) -> int:
    """Lock a folder until the descriptor is closed or its process ends; fails at once where it is locked."""
    holder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(holder)
        raise
    return holder


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse where the disk cannot hold so much more; the folder and those above it need not exist yet.

    Raises:
        UnavailableError: it cannot.
    """
    disk = os.statvfs(next(parent for parent in folder.absolute().parents if parent.exists()))
    free = disk.f_bavail * disk.f_frsize
    if needed_bytes > free:
        raise UnavailableError(
            f"{folder} cannot be written",
            f"it takes {format_bytes(needed_bytes)} and the disk has {format_bytes(free)} left",
            "Free some space and run again; nothing that was there is lost.",
        )


def _flush_all(folder: Path) -> None:
    for entry in folder.iterdir():
        flush(entry)
    flush(folder)


def flush(path: Path) -> None:
    """Have a file, or a folder's list of names, written to the disk before this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
