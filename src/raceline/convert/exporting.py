"""Run a framework's own export in a child process, so that its versions never meet ours.

A script of exporters/ reads one JSON object from standard input and writes its answer, JSON too, to the file
that the object's `answer` names; what it makes goes into the object's `folder`. An answer with `missing` names
a module that is not installed, one with `error` says what the framework refused.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import raceline.convert.exporters as scripts
from raceline.core.errors import BackendLostError, BadModelError, ConfigError, MissingDependencyError

TIMEOUT_S = 600.0
_LAST_WORDS = 600  # characters of a failed child's output that are worth repeating


@contextmanager
def exported(
    script: str,
    arguments: Mapping[str, Any],
    *,
    source: str,
    extra: str,
    python: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Run a script of exporters/; the folder it filled lives as long as the block.

    Args:
        script: file name without `.py`.
        arguments: plain values that it takes.
        source: what is exported, for messages.
        extra: of Raceline, that installs what the script needs.
        python: interpreter of an environment that has the framework; None: this one.
        timeout_s: longest time for all of it.

    Yields:
        the folder, and what the script answered.

    Raises:
        MissingDependencyError: the framework is not installed there.
        BadModelError: the framework refuses the model.
        BackendLostError: the child died or took too long.
        ConfigError: there is no such interpreter.
    """
    with tempfile.TemporaryDirectory(prefix="raceline-export-") as place:
        folder = Path(place)
        yield (
            folder,
            _run(script, dict(arguments), folder, source, extra, str(python or sys.executable), timeout_s),
        )


def _run(
    script: str,
    arguments: dict[str, Any],
    folder: Path,
    source: str,
    extra: str,
    python: str,
    timeout_s: float,
) -> dict[str, Any]:
    answer = folder / "answer.json"
    command = [python, "-I", str(Path(scripts.__path__[0]) / f"{script}.py")]
    environment = {**os.environ, "TMPDIR": str(folder)}  # what a killed child leaves goes with the folder
    message = json.dumps({**arguments, "folder": str(folder), "answer": str(answer)})
    try:
        done = subprocess.run(
            command, input=message, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=environment, timeout=timeout_s, check=False, cwd=folder,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BackendLostError(
            f"exporting {source} took longer than {timeout_s:g} s", next_step="It was ended."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the interpreter {python!r} cannot be run", error.strerror or str(error)
        ) from error
    said = " ".join(done.stdout.split())[-_LAST_WORDS:]
    if not answer.is_file():
        how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
        raise BackendLostError(f"exporting {source} ended with {how}", said)
    found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "missing" in found:
        package = f"raceline[{extra}]" if extra else "raceline"
        raise MissingDependencyError(f"reading {source}", found["missing"], f"pip install '{package}'")
    if "error" in found:
        raise BadModelError(
            f"{source} cannot be exported by its framework", found["error"], found.get("next_step", "")
        )
    return found


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keep back what torch says of itself."""
    log = logging.getLogger("torch")
    usual = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(usual)
