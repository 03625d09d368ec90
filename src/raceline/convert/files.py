"""Open what a reader is given, file, folder or archive, without believing it."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from raceline.core.errors import BadModelError
from raceline.core.units import format_bytes
from raceline.ir import wire
from raceline.ir.limits import Limits
from raceline.ir.load import PARSE_FAILURES

_BLOCK_BYTES = 1 << 20
_MOST_MEMBERS = 100_000
_MOST_TEXT_BYTES = 64 << 20
_TEXTS = (".json", ".py", ".pkl")  # members that describe a model; its weights lie in others
_PACKINGS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_JSON_GROWTH = 32  # an empty list takes two bytes in a file, and 64 once parsed
_PICKLE_PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")

CHECKPOINT_WHY = "it holds weights, or objects whose loading runs code; the network itself is not in it"
CHECKPOINT_WAY_OUT = (
    "Load it with the code that made it, then save the network: torch.export.save(torch.export.export(module, "
    "inputs), 'model.pt2') or torch.jit.script(module).save('model.pt'); or give the module itself to "
    "IRTranslator().parse(module, inputs=...)."
)
"""Why a checkpoint is not read, and what to do instead."""


def content(path: Path, limits: Limits) -> bytes:
    """A plain file's bytes.

    Raises:
        BadModelError: there is no such plain file, or it is empty or over the limit.
    """
    refuse_strange(path, limits)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadModelError(f"{path} cannot be read", error.strerror or str(error)) from error
    if not data:
        raise BadModelError(f"{path.name} is empty", next_step="Download or export it again.")
    return data


def parsed(kind: Any, data: bytes, source: str, what: str, limits: Limits) -> Any:
    """Parse bytes that are not to be trusted as one protobuf message.

    Args:
        kind: the message's class.
        data: its bytes.
        source: the file, for messages.
        what: the message is called, for messages.
        limits: what the parsed message may take.

    Raises:
        BadModelError: they are no such message, or it would grow beyond the limits.
    """
    from google.protobuf.message import DecodeError

    try:
        if len(data) * wire.WORST_GROWTH > limits.max_model_bytes:
            size = wire.parsed_size_bytes(data, kind.DESCRIPTOR)
            if size > limits.max_model_bytes:
                raise too_large(source, size, limits)
        return kind.FromString(data)
    except (DecodeError, *PARSE_FAILURES) as error:
        why = f"it is cut off, or something else: {error}"
        raise BadModelError(f"{source} is no whole {what}", why, "Download or export it again.") from error


def refuse_strange(path: Path, limits: Limits) -> int:
    """The size of a plain file, once it is known to be one and within the limits.

    Raises:
        BadModelError: it is absent, no plain file, or over the limit.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BadModelError(f"{path} cannot be read", why, "Check the path.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no plain file"
        raise BadModelError(f"{path} is {kind}", next_step="Name the model's file itself.")
    if status.st_size > limits.max_model_bytes:
        raise too_large(path.name, status.st_size, limits)
    return status.st_size


def inside(folder: Path, name: str) -> Path:
    """The file `name` of a folder, links resolved, once it is known to lie inside it.

    Raises:
        BadModelError: it is absent or leads elsewhere.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        is_file = path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise BadModelError(f"{folder.name} is broken", f"{name[:200]!r}: {error}") from error
    if not path.is_relative_to(root):
        raise BadModelError(f"{folder.name} is refused", f"{name[:200]!r} leads outside of it, to {path}")
    if not is_file:
        raise BadModelError(f"{folder.name} is incomplete", f"it has no file {name[:200]!r}")
    return path


def sha256(paths: Iterable[Path]) -> str:
    """Digest of files, one after another in order of name."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def too_large(source: str, size_bytes: int, limits: Limits) -> BadModelError:
    """The error for a model beyond the limit."""
    return BadModelError(
        f"{source} is too large",
        f"{format_bytes(size_bytes)}, more than the limit of {format_bytes(limits.max_model_bytes)}",
        "Use a machine with more memory, or raise the limit (max_model_bytes, --memory-limit).",
    )


def refuse_growth(size_bytes: int, source: str, limits: Limits) -> None:
    """Refuse JSON that could be over the limit once parsed.

    Raises:
        BadModelError: it could.
    """
    if size_bytes * _JSON_GROWTH > limits.max_model_bytes:
        raise too_large(source, size_bytes * _JSON_GROWTH, limits)


def member_names(path: Path) -> list[str]:
    """Names in a zip archive, at little cost; none where it is none."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                return []
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return []


def checkpoint(path: Path) -> str:
    """What a file is, where it is a checkpoint as torch.save or pickle writes it; empty for every other."""
    names = member_names(path)
    roots = [
        name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl") and name.count("/") < 2
    ]
    if roots and f"{roots[0]}constants.pkl" not in names:
        return "a PyTorch checkpoint, not a model"
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError:
        return ""
    legacy = start[:1] == b"\x80" and start[1:] in _PICKLE_PROTOCOLS
    return "a pickle, perhaps an old PyTorch checkpoint, not a model" if legacy else ""


class Archive:
    """A zip archive that is not to be trusted; members are read into memory and never unpacked to disk.

    Use it in a `with` block.

    Args:
        path: the file.
        limits: all members together may not be larger than a model. Members that only describe it have a smaller
            bound of their own.

    Raises:
        BadModelError: it is no whole archive; a member has an absolute name or one that climbs, a name is there
            twice, packed in a way that no framework uses, or what it expands to is over the limit.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        refuse_strange(path, limits)
        self._source = path.name
        self.limits = limits
        try:
            self._zip = zipfile.ZipFile(path)
            members = self._zip.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadModelError(
                f"{path.name} is no whole archive", str(error), "Download or save it again."
            ) from error
        self.sizes = {info.filename: info.file_size for info in members if not info.is_dir()}
        self._check(members)

    def _check(self, members: list[zipfile.ZipInfo]) -> None:
        names = [info.filename for info in members]
        strange = [
            n for n in names if n.startswith(("/", "\\")) or ".." in PurePosixPath(n.replace("\\", "/")).parts
        ]
        if strange:
            raise BadModelError(
                f"{self._source} is refused", f"its member {strange[0][:200]!r} leads outside of it"
            )
        if len(set(names)) != len(names) or len(names) > _MOST_MEMBERS:
            raise BadModelError(f"{self._source} is broken", "members share a name, or there are too many")
        for info in members:
            self._check_size(info)
        if (total := sum(info.file_size for info in members)) > self.limits.max_model_bytes:
            raise too_large(self._source, total, self.limits)

    def _check_size(self, info: zipfile.ZipInfo) -> None:
        """Refuse what could take much memory: zipfile cannot stop other packings than deflate half way."""
        name = info.filename[:200]
        if info.compress_type not in _PACKINGS:
            why = (
                f"member {name!r} is packed by method {info.compress_type}; stored and deflated ones are read"
            )
            raise BadModelError(f"{self._source} is refused", why, "Save it again with its framework.")
        if name.endswith(_TEXTS) and info.file_size > _MOST_TEXT_BYTES:
            limit = f"more than the {format_bytes(_MOST_TEXT_BYTES)} that such a member may have"
            why = f"member {name!r} expands to {format_bytes(info.file_size)}, {limit}"
            raise BadModelError(f"{self._source} is refused", why, "Save it again with its framework.")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def names(self) -> list[str]:
        """Members that are files."""
        return list(self.sizes)

    def read(self, name: str) -> bytes:
        """A member's bytes.

        Raises:
            BadModelError: it is not there or damaged, or larger than the archive says.
        """
        if name not in self.sizes:
            raise BadModelError(f"{self._source} is incomplete", f"it has no member {name[:200]!r}")
        try:
            with self._zip.open(name) as member:
                data = member.read(self.sizes[name] + 1)
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            EOFError,
            RuntimeError,
            NotImplementedError,
        ) as error:
            raise BadModelError(f"{self._source} is damaged", f"member {name[:200]!r}: {error}") from error
        except Exception as error:  # noqa: BLE001  decompressors raise errors of their own, such as zlib.error
            raise BadModelError(f"{self._source} is damaged", f"member {name[:200]!r}: {error}") from error
        if len(data) != self.sizes[name]:
            raise BadModelError(
                f"{self._source} is damaged", f"member {name[:200]!r} has another size than it says"
            )
        return data
