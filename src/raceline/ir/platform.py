"""What a machine is and how fast it can be: this one as measured, others as their makers state.

Rates count a multiply-add as two operations. `None` means unknown, never zero.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from raceline.core.errors import ConfigError, UnknownNameError
from raceline.core.paths import write_whole
from raceline.core.records import from_json

KINDS = ("cpu", "gpu", "npu")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Cache:
    """One cache of a core.

    Attributes:
        kind: "data", "instruction" or "unified".
        shared_by: logical CPUs that use the same one.
    """

    level: int
    kind: str
    size_bytes: int
    shared_by: int = 1


@dataclass(frozen=True)
class Rate:
    """Operations per second at one precision with one instruction set.

    Attributes:
        per_core: on one core while the others rest.
        all_cores: on all cores at once.
    """

    precision: str
    instruction_set: str
    per_core: float | None = None
    all_cores: float | None = None


@dataclass(frozen=True)
class EngineChoice:
    """An engine that suits a machine.

    Attributes:
        engine: its name, as of a file in engines/ where Raceline has one.
        provider: what the engine calls this hardware ("CPUExecutionProvider", "NPU").
        precisions: arithmetic worth trying, most exact first.
        reason: why it suits, for people.
    """

    engine: str
    provider: str
    precisions: tuple[str, ...]
    reason: str


class Measurable(NamedTuple):
    """Whether figures can be had, and why or why not."""

    yes: bool
    why: str


# What must exist before a provider can be tried; any one of the files will do.
_DEVICE_FILES = {
    "TensorrtExecutionProvider": ("/dev/nvidiactl", "/dev/nvhost-gpu"),
    "CUDAExecutionProvider": ("/dev/nvidiactl", "/dev/nvhost-gpu"),
    "ROCMExecutionProvider": ("/dev/kfd",),
    "QNNExecutionProvider": ("/dev/fastrpc-cdsp", "/dev/fastrpc-cdsp-secure"),
    "CANNExecutionProvider": ("/dev/davinci_manager",),
    "GPU": ("/dev/dri/renderD128",),
    "NPU": ("/dev/accel/accel0",),
}


@dataclass(frozen=True)
class PlatformProfile:
    """A machine, or one accelerator of it.

    Attributes:
        name: for people, unique among the profiles of a project.
        kind: "cpu", "gpu" or "npu".
        model: what the hardware calls itself.
        architecture: "x86_64", "aarch64" for CPUs; the maker's name of the design otherwise.
        cores: what `per_core` rates refer to: physical CPU cores this process may use, multiprocessors of a
            GPU, chips or tiles of an NPU.
        instruction_sets: those that matter to inference and that the operating system lets programs use.
        rates: peak rates, for each precision and instruction set.
        caches: of one core.
        memory_bytes: what the engines can use.
        memory_bytes_per_s_per_core: one core streaming (STREAM triad where measured).
        memory_bytes_per_s: all cores streaming.
        host_link_bytes_per_s: between the host's memory and an accelerator's, in one direction; the memory's own
            rate where both share it.
        clock_hz: of a busy core where measured, else as stated.
        engines: those that suit, the most promising first.
        measured: True where Raceline's probe took the figures on the machine itself.
        source: where the figures come from.
        date: of the measurement or the statement, as 2026-11-22.
        probe_version: of the probe that measured; 0 for statements.
    """

    name: str
    kind: str
    model: str
    architecture: str
    cores: int
    engines: tuple[EngineChoice, ...]
    measured: bool
    source: str
    date: str
    instruction_sets: tuple[str, ...] = ()
    rates: tuple[Rate, ...] = ()
    caches: tuple[Cache, ...] = ()
    memory_bytes: int | None = None
    memory_bytes_per_s_per_core: float | None = None
    memory_bytes_per_s: float | None = None
    host_link_bytes_per_s: float | None = None
    clock_hz: float | None = None
    probe_version: int = 0

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ConfigError(f"the platform profile {self.name!r} is wrong", problem)

    @property
    def key(self) -> str:
        """Names this kind of machine in caches and profiles; safe as a file name.

        The same wherever the model, the instruction sets and the number of cores are the same, whatever was
        measured.
        """
        identity = [self.kind, self.model, self.architecture, self.cores, sorted(self.instruction_sets)]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.lower()).strip("-")[:48]
        return f"{self.kind}-{slug}-{self.cores}c-{digest}"

    def peak_ops_per_s(self, precision: str, cores: int | None = None) -> float | None:
        """The best rate at `precision` on that many cores (None: all of them); None where unknown."""
        known = [
            rate for row in self.rates if row.precision == precision and (rate := self._rate(row, cores))
        ]
        return max(known, default=None)

    @property
    def fp32_flops_per_s_per_core(self) -> float | None:
        """Peak FP32 rate of one core."""
        return self.peak_ops_per_s("fp32", 1)

    @property
    def int8_ops_per_s_per_core(self) -> float | None:
        """Peak INT8 multiply-accumulate rate of one core."""
        return self.peak_ops_per_s("int8", 1)

    @property
    def bf16_flops_per_s_per_core(self) -> float | None:
        """Peak bfloat16 rate of one core."""
        return self.peak_ops_per_s("bf16", 1)

    def measurable_here(
        self,
        choice: EngineChoice,
        here: "PlatformProfile",
        exists: Callable[[str], bool] = os.path.exists,
    ) -> Measurable:
        """Whether figures of this platform with that engine can be taken on the machine `here`.

        For a CPU that asks for the same kind of machine; for an accelerator, for its device file. That the
        engine is installed is another question.
        """
        files = _DEVICE_FILES.get(choice.provider)
        if files is None:
            same = self.key == here.key
            return Measurable(same, f"this machine is {'' if same else 'not one of those but '}{here.name}")
        found = [f for f in files if exists(f)]
        return Measurable(bool(found), f"{found[0]} is here" if found else f"there is no {files[0]} here")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    @classmethod
    def from_json(cls, data: object) -> "PlatformProfile":
        """The profile of `to_json`.

        Raises:
            ConfigError: a field is missing, unknown or wrong; the message names it.
        """
        return from_json(cls, data)

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON, whole or not at all.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            write_whole(Path(path), (json.dumps(self.to_json(), indent=2) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"cannot write {path}", error.strerror or str(error)) from error

    @classmethod
    def load(cls, path: str | Path) -> "PlatformProfile":
        """Read a profile that `save` or a person wrote.

        Raises:
            ConfigError: the file cannot be read or is not a profile; the message names the field.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the platform profile {path}", str(error)) from error
        return cls.loads(text, str(path))

    @classmethod
    def loads(cls, text: str, where: str = "the text") -> "PlatformProfile":
        """Like `load`, from text; `where` names it in messages."""
        try:
            return cls.from_json(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is not JSON", str(error)) from error
        except ConfigError as error:
            raise ConfigError(f"{where} is not a platform profile", str(error)) from error

    def _rate(self, row: Rate, cores: int | None) -> float | None:
        """A row's rate on that many cores: as measured, else in proportion, never more than all have."""
        cores = self.cores if cores is None else min(cores, self.cores)
        if cores == self.cores and row.all_cores is not None:
            return row.all_cores
        if row.per_core is None:
            return row.all_cores and row.all_cores * cores / self.cores
        return min(row.per_core * cores, row.all_cores or row.per_core * cores)


def stated_platforms() -> list[str]:
    """Names of the profiles that ship with Raceline: machines that are not this one."""
    return sorted(f.name.removesuffix(".json") for f in _shipped().iterdir() if f.name.endswith(".json"))


def stated_platform(name: str) -> PlatformProfile:
    """One of the profiles that ship with Raceline.

    Raises:
        UnknownNameError: there is none of that name; the message lists those there are.
    """
    if name not in stated_platforms():
        raise UnknownNameError("platform", name, stated_platforms())
    return PlatformProfile.loads((_shipped() / f"{name}.json").read_text(encoding="utf-8"), name)


def _shipped() -> Any:
    return resources.files("raceline.ir") / "platforms"


def _problems(p: PlatformProfile) -> Iterator[str]:
    """What is wrong with the values, each with its field."""
    if p.kind not in KINDS:
        yield f"kind is {p.kind!r}, not one of {', '.join(KINDS)}"
    for field in ("name", "model", "architecture", "source", "date"):
        if not getattr(p, field).strip():
            yield f"{field} is empty"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", p.date):
        yield f"date is {p.date!r}, not like 2026-11-22"
    for field, value in _numbers(p):
        if value is not None and value <= 0:
            yield f"{field} is {value}, not above zero"
    for field, precision in _precisions(p):
        if precision not in PRECISIONS:
            yield f"{field} is {precision!r}, not one of {', '.join(PRECISIONS)}"


def _precisions(p: PlatformProfile) -> Iterator[tuple[str, str]]:
    """Every name of a precision, with its field."""
    for i, row in enumerate(p.rates):
        yield f"rates[{i}].precision", row.precision
    for i, choice in enumerate(p.engines):
        for k, precision in enumerate(choice.precisions):
            yield f"engines[{i}].precisions[{k}]", precision


def _numbers(p: PlatformProfile) -> Iterator[tuple[str, float | None]]:
    """Every number that must be positive, with its field."""
    yield "cores", p.cores
    yield "memory_bytes", p.memory_bytes
    yield "memory_bytes_per_s_per_core", p.memory_bytes_per_s_per_core
    yield "memory_bytes_per_s", p.memory_bytes_per_s
    yield "host_link_bytes_per_s", p.host_link_bytes_per_s
    yield "clock_hz", p.clock_hz
    for i, row in enumerate(p.rates):
        yield f"rates[{i}].per_core", row.per_core
        yield f"rates[{i}].all_cores", row.all_cores
    for i, cache in enumerate(p.caches):
        yield f"caches[{i}].size_bytes", cache.size_bytes
        yield f"caches[{i}].shared_by", cache.shared_by
