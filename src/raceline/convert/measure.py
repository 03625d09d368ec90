"""Time candidates in child processes, one for each engine, so that a crash or a hang is only a bad mark.

Nothing that comes back from a child is unpickled: commands and answers are JSON, arrays plain .npz files.
"""

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

import raceline
from raceline import engines
from raceline.convert.placing import workshop
from raceline.core.clock import SystemClock
from raceline.core.errors import BackendLostError, BadModelError, NotReadyError
from raceline.ir import Candidate, Model, Shapes
from raceline.ir.bundle import Bundle

LOAD_TIMEOUT_S = 300.0
CALL_TIMEOUT_S = 120.0
_START_TIMEOUT_S = 60.0
_LAST_WORDS = 400  # characters of a dead child's output that are worth repeating


class HinderedError(BackendLostError):
    """A worker that was too slow or was killed: another time, with less beside it, it may do its work."""


@dataclass(frozen=True)
class Timing:
    """Some calls of one candidate, one after another.

    Attributes:
        times_s: seconds of each call.
        disturbed: for each call, whether another process was given the CPU meanwhile.
    """

    times_s: tuple[float, ...]
    disturbed: tuple[bool, ...]


@dataclass
class _Slot:
    """A candidate's place in its worker."""

    id: int
    memory_bytes: int


class Worker:
    """One child process that talks JSON lines.

    It ends with this process, however that ends, and gets no signal from the terminal: Ctrl-C reaches only
    the parent. Not for use by several threads.

    Args:
        environment: variables to set or, with None, to unset for the child.
    """

    def __init__(self, environment: Mapping[str, str | None] | None = None) -> None:
        self._output: IO[bytes] = tempfile.TemporaryFile()
        child_reads, parent_writes = os.pipe()
        parent_reads, child_writes = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "raceline.convert._worker", str(child_reads), str(child_writes),
                 str(os.getpid()), *engines.__path__],
                stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
                pass_fds=(child_reads, child_writes), env=_environment(environment or {}),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(child_reads)
            os.close(child_writes)
        self._commands = os.fdopen(parent_writes, "wb", buffering=0)
        self._answers = os.fdopen(parent_reads, "rb", buffering=0)
        self._unread = b""

    def ask(self, command: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises:
            BackendLostError: the child died; how is in the message.
            HinderedError: it was killed from outside, or gave no answer in time and was ended.
            NotReadyError: the child had not enough memory.
            BadModelError: the child answered with another error.
        """
        try:
            self._commands.write(json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise self._lost() from None
        answer: dict[str, Any] = json.loads(self._line(timeout_s))
        if answer.get("hindered"):
            raise NotReadyError(answer["error"])
        if "error" in answer:
            raise BadModelError(answer["error"])
        return answer

    def _line(self, timeout_s: float) -> bytes:
        clock = SystemClock()
        deadline_s = clock.now_s() + timeout_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline_s - clock.now_s()))
            if not ready:
                self.end()
                raise HinderedError(f"no answer within {timeout_s:g} s", next_step="It was ended.")
            received = os.read(self._answers.fileno(), 1 << 16)
            if not received:
                raise self._lost()
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _lost(self) -> BackendLostError:
        """What became of the child, once its pipe is closed."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.end()
            return HinderedError("the worker closed its pipe and was ended")
        self._output.seek(0)
        said = " ".join(self._output.read().decode(errors="replace").split())[-_LAST_WORDS:]
        self.end()
        error = HinderedError if code == -signal.SIGKILL else BackendLostError
        return error(_cause_of_death(code), said)

    def end(self) -> None:
        """Kill the child; a second call does nothing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for file in (self._commands, self._answers, self._output):
            file.close()


def _plain(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The array; strings as Unicode, so that nothing needs pickling."""
    return array.astype(str) if array.dtype.kind == "O" else array


def _cause_of_death(code: int) -> str:
    """A child's exit status in words."""
    if code >= 0:
        return f"the worker ended with status {code}"
    name = signal.Signals(-code).name
    note = " (out of memory?)" if name == "SIGKILL" else ""
    return f"the worker was killed by {name}{note}"


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with changes, for a child that finds the same raceline.

    NumPy's own threads are held to one: engines bring theirs.
    """
    source = str(Path(raceline.__file__).parents[1])
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    merged: dict[str, str | None] = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        **changes,
    }
    merged["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return {name: value for name, value in merged.items() if value is not None}


@dataclass
class Bench:
    """A model's candidates, each loaded in the worker of its engine; a `with` block that ends all workers.

    A worker that is lost takes its other candidates along: they are loaded again when they are next used.

    Args:
        models: variant -> graph.
        shapes: the inputs' shapes at batch 1.
        seed: of the generated inputs; the same for all candidates.
        load_timeout_s: longest time for loading and the first call.
        call_timeout_s: longest time for the calls that are timed together.
    """

    models: Mapping[str, Model]
    shapes: Shapes
    seed: int = 0
    load_timeout_s: float = LOAD_TIMEOUT_S
    call_timeout_s: float = CALL_TIMEOUT_S
    _parts: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    _workers: dict[str, Worker] = field(default_factory=dict)
    _slots: dict[Candidate, _Slot] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _folder: Path | None = None
    _closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "Bench":
        place = Path(tempfile.gettempdir(), "raceline-tune")
        # Below it, as whoever writes a bundle locks the folder that it stands in.
        self._folder = self._closing.enter_context(workshop(place)) / "bench"
        self._folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()
        self._slots.clear()
        self._closing.close()

    def cut(self, variant: str, start: int, stop: int) -> str:
        """The name of a new variant: the part of another between two places (see `ir.segments`).

        Its candidates take what crosses the places at their own batch, and can be loaded, timed and dropped.
        """
        name = f"{variant}[{start}:{stop}]"
        self._parts[name] = variant, start, stop
        return name

    def load(self, candidate: Candidate) -> int:
        """Load a candidate, if it is not, and run it once; the memory it added, in bytes.

        Raises:
            BadModelError: its engine refuses the model.
            BackendLostError: its engine crashed; HinderedError where it hung or was killed.
            NotReadyError: there was not enough memory.
        """
        if candidate not in self._slots:
            number = next(self._ids)
            variant, *part = self._parts.get(candidate.variant, (candidate.variant,))
            answer = self._ask(candidate, {
                "do": "load", "id": number, "bundle": str(self._bundle(variant)), "part": part,
                "candidate": asdict(candidate), "shapes": dict(self.shapes), "seed": self.seed,
            }, self.load_timeout_s)  # fmt: skip
            self._slots[candidate] = _Slot(number, int(answer["memory_bytes"]))
        return self._slots[candidate].memory_bytes

    def time(self, candidate: Candidate, calls: int, *, warm: bool = True) -> Timing:
        """Time `calls` calls, after an untimed one where `warm`.

        Raises:
            BackendLostError, BadModelError, NotReadyError: as `load`.
        """
        command = {"do": "time", "calls": calls, "warm": warm}
        answer = self._ask_loaded(candidate, command, self.call_timeout_s)
        return Timing(tuple(answer["times_s"]), tuple(answer["disturbed"]))

    def compute(self, candidate: Candidate, *, seed: int | None = None) -> engines.Tensors:
        """The outputs for the generated inputs, or for those of another seed.

        Raises:
            BackendLostError, BadModelError, NotReadyError: as `load`.
        """
        assert self._folder is not None, "use it in a with block"
        path = self._folder / "outputs.npz"
        command = {"do": "compute", "seed": self.seed if seed is None else seed, "path": str(path)}
        answer = self._ask_loaded(candidate, command, self.call_timeout_s)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[member] for name, member in zip(answer["names"], arrays.files, strict=True)}

    def answer(
        self, candidate: Candidate, calls: Iterable[Mapping[str, "np.ndarray[Any, Any]"]]
    ) -> list[engines.Tensors]:
        """The outputs of call after call, of the candidate's batch each; its names are those of the signature.

        Raises:
            BackendLostError, BadModelError, NotReadyError: as `load`.
        """
        assert self._folder is not None, "use it in a with block"
        given, path = self._folder / "inputs.npz", self._folder / "outputs.npz"
        listed = list(calls)
        names = list(listed[0]) if listed else []
        np.savez(given, *(_plain(call[name]) for call in listed for name in names))
        command = {"do": "answer", "names": names, "inputs": str(given), "path": str(path)}
        told = self._ask_loaded(candidate, command, self.call_timeout_s)
        names = told["names"]
        with np.load(path, allow_pickle=False) as arrays:
            members = [arrays[member] for member in arrays.files]
        starts = range(0, len(members), max(1, len(names)))
        return [dict(zip(names, members[start : start + len(names)], strict=True)) for start in starts]

    def drop(self, candidate: Candidate, *, forget: bool = False) -> None:
        """Free what a candidate holds, if it is loaded; `forget` also its graph, which is not used again."""
        slot = self._slots.pop(candidate, None)
        try:
            if slot is not None:
                self._ask(candidate, {"do": "drop", "id": slot.id, "forget": forget}, self.load_timeout_s)
        finally:
            if forget and self._folder is not None:
                shutil.rmtree(self._folder / candidate.variant, ignore_errors=True)

    def _ask_loaded(self, candidate: Candidate, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.load(candidate)
        return self._ask(candidate, {**command, "id": self._slots[candidate].id}, timeout_s)

    def _ask(self, candidate: Candidate, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        key = candidate.engine
        if key not in self._workers:
            # What a worker that is killed leaves of its temporary files goes with the folder.
            self._workers[key] = Worker({"TMPDIR": str(self._folder)} if self._folder else None)
        try:
            return self._workers[key].ask(command, timeout_s)
        except BackendLostError:
            del self._workers[key]
            self._slots = {c: slot for c, slot in self._slots.items() if c.engine != key}
            raise

    def _bundle(self, variant: str) -> Path:
        """The variant's graph on disk, where all workers map the same weights."""
        assert self._folder is not None, "use it in a with block"
        folder = self._folder / variant
        if not folder.exists():
            Bundle.write(folder, self.models[variant])
        return folder
