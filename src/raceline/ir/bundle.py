"""A deployable model on disk: a folder of `model.onnx`, `weights.bin` and `bundle.json`, all hashed.

Any ONNX runtime loads `model.onnx` where it lies; `weights.bin` is aligned so that it is mapped, not read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from raceline.core.errors import BadModelError, ConfigError
from raceline.ir import load, manifest, store, weights
from raceline.ir.check import check
from raceline.ir.limits import Limits
from raceline.ir.manifest import FileEntry, Manifest
from raceline.ir.model import Model
from raceline.ir.notes import forget_notes
from raceline.ir.profile import Profile
from raceline.ir.serialise import (
    ALWAYS_EMBEDDED_BYTES,
    IR_VERSION_CAP,
    capped,
    embed_rest,
    externalise,
    message_bytes,
    refer,
    serialised,
    structural_sha256,
    write_weights,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_BLOCK_BYTES = 1 << 22
_OVERHEAD_BYTES = 1 << 20  # for a graph and a manifest, when asking whether the disk has room
_MOST_ATTEMPTS = 10


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. It stays whole and usable when the folder is replaced or removed meanwhile.

    Attributes:
        folder: where it was opened.
        model: the model; its weights are mapped, not loaded.
        profile: what was measured, if anything.
        equivalence: the report of the comparison with the source, as JSON; None where there is none.
        model_sha256: structural digest of the model, the key of measurements.
        files: name -> digest and size.
        attachments: further files by name, such as a report.
    """

    folder: Path
    model: Model
    profile: Profile | None
    equivalence: Mapping[str, Any] | None
    model_sha256: str
    files: Mapping[str, FileEntry]
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def model_path(self) -> Path:
        """The ONNX file, for a runtime that loads by path."""
        return self.folder / manifest.MODEL

    @classmethod
    def write(
        cls,
        folder: Path,
        model: Model,
        *,
        profile: Profile | None = None,
        equivalence: Mapping[str, Any] | None = None,
        attachments: Mapping[str, bytes] | None = None,
    ) -> Bundle:
        """Write a bundle, in place of one that may be there; a kill at any moment leaves the old or the new.

        Weights stream from where they are; memory does not grow with them. Notes that exporters leave at nodes
        and values, such as stack traces and places of source files, are not written.

        Args:
            folder: where to; must be absent, empty or a bundle.
            model: is checked first.
            profile: what was measured.
            equivalence: JSON values.
            attachments: further files to keep, by plain name.

        Returns:
            the bundle, opened.

        Raises:
            BadModelError: the model is not sound, or an attachment's name is no plain file name.
            ConfigError: the folder holds something else, or may not be written.
            UnavailableError: the disk is full.
        """
        check(model, allow_nan=True)  # a reader decided on NaN before; a bundle only must not hide it
        extra = dict(attachments or {})
        for name in extra:
            if manifest.check_file_name(name, "the attachment") in _OWN_NAMES:
                raise ConfigError(
                    f"an attachment cannot be called {name!r}", "the bundle itself uses that name"
                )
        folder = Path(folder).resolve()
        refuse_to_replace_others(folder)
        needed = weights.total_bytes(model.program) + sum(map(len, extra.values())) + _OVERHEAD_BYTES
        with store.replacing(folder, needed) as fresh:
            files = _write_model(fresh, model)
            for name, content in extra.items():
                files[name] = _write_file(fresh / name, content)
            sheet = Manifest(
                model.signature, model.provenance, structural_sha256(model), files, profile, equivalence
            )
            _write_file(fresh / manifest.NAME, manifest.to_text(sheet).encode())
        return cls.open(folder, verify=False)

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = True, limits: Limits | None = None) -> Bundle:
        """Open a bundle and check that it is what its manifest says.

        Args:
            folder: the bundle.
            verify: compare the digest of every file; sizes and structure are checked in any case.
            limits: what the bundle may ask of this machine.

        Raises:
            BadModelError: there is no bundle, or a file of it is missing, changed or broken; it is named.
        """
        folder, limits = Path(folder), limits or Limits()
        for attempt in range(_MOST_ATTEMPTS):
            try:
                return _open_once(folder, verify=verify, limits=limits)
            except _Vanished as error:  # replaced while being opened: the new one is there now
                if attempt == _MOST_ATTEMPTS - 1:
                    raise BadModelError(f"there is no whole bundle at {folder}", str(error)) from error
        raise AssertionError  # the loop returns or raises


_OWN_NAMES = frozenset({manifest.MODEL, manifest.WEIGHTS, manifest.NAME})
_WRITE_AGAIN = "Write the bundle again, or copy it whole."


class _Vanished(Exception):  # noqa: N818  # a signal between two functions of this file, not an error
    """A file disappeared while the bundle was being opened."""


def _write_model(folder: Path, model: Model) -> dict[str, FileEntry]:
    """Write graph and weights; returns their entries."""
    program = capped(model.program, IR_VERSION_CAP)
    moved = externalise(program, ALWAYS_EMBEDDED_BYTES)
    embed_rest(program, moved)
    files = {}
    if moved:
        sha = hashlib.sha256()
        with (folder / manifest.WEIGHTS).open("xb") as file:
            extents = write_weights([tensor for _, tensor in moved], file, sha)
            files[manifest.WEIGHTS] = FileEntry(sha.hexdigest(), file.tell())
        refer(moved, extents, manifest.WEIGHTS)
    proto = serialised(program)
    forget_notes(proto)
    content = message_bytes(proto, model.name)
    return {manifest.MODEL: _write_file(folder / manifest.MODEL, content), **files}


def _write_file(path: Path, content: bytes) -> FileEntry:
    with path.open("xb") as file:
        file.write(content)
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


def refuse_to_replace_others(folder: Path) -> None:
    """Refuse a folder that holds anything but a bundle: replacing it would lose that.

    Raises:
        ConfigError: it does, or it is no folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", next_step="Choose another place for the bundle.")
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise store.explained(error, folder) from error
    foreign = sorted(names - _OWN_NAMES - _attached(folder)) if manifest.NAME in names else sorted(names)
    if foreign:
        listed = ", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else "")
        raise ConfigError(
            f"{folder} is not replaced",
            f"it holds other files ({listed})",
            "Move them, or choose another folder.",
        )


def _attached(folder: Path) -> set[str]:
    """Names of the attachments of a bundle that is there; none where it cannot be read."""
    try:
        return set(manifest.from_text((folder / manifest.NAME).read_bytes(), str(folder)).files)
    except (OSError, BadModelError):
        return set()


def _open_once(folder: Path, *, verify: bool, limits: Limits) -> Bundle:
    """Open through a descriptor of the folder: all files are of one version, whatever happens to the name."""
    try:
        directory = os.open(store.current(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _Vanished("the folder is missing") from error
    except OSError as error:
        raise BadModelError(f"there is no bundle at {folder}", error.strerror or "") from error
    try:
        with _file(directory, manifest.NAME, folder) as file:
            text = file.read(manifest.MOST_BYTES + 1)
        if len(text) > manifest.MOST_BYTES:
            raise BadModelError(f"{folder / manifest.NAME} is too large", f"over {manifest.MOST_BYTES} bytes")
        sheet = manifest.from_text(text, str(folder / manifest.NAME))
        maps = {
            name: _mapped(directory, name, entry, folder, verify=verify)
            for name, entry in sheet.files.items()
        }
    finally:
        os.close(directory)
    model = _model(maps, sheet, folder, limits)
    extra = {name: bytes(data) for name, data in maps.items() if name not in _OWN_NAMES}
    return Bundle(folder, model, sheet.profile, sheet.equivalence, sheet.model_sha256, sheet.files, extra)


def _file(directory: int, name: str, folder: Path) -> BinaryIO:
    """Open a plain file of the folder; links are not followed."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError as error:
        raise _Vanished(f"{name} is missing") from error
    except OSError as error:
        raise BadModelError(f"{folder / name} cannot be read", error.strerror or str(error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadModelError(f"{folder / name} is no plain file", next_step=_WRITE_AGAIN)
    return os.fdopen(descriptor, "rb")


def _mapped(directory: int, name: str, entry: FileEntry, folder: Path, *, verify: bool) -> memoryview:
    """A file's content, mapped; its size and digest are what the manifest says."""
    with closing(_file(directory, name, folder)) as file:
        size = os.fstat(file.fileno()).st_size
        if size != entry.size_bytes:
            why = f"it has {size} bytes, and the manifest says {entry.size_bytes}"
            raise BadModelError(f"{folder / name} was changed", why, _WRITE_AGAIN)
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    if verify:
        sha = hashlib.sha256()
        for start in range(0, size, _BLOCK_BYTES):
            sha.update(data[start : start + _BLOCK_BYTES])
        if sha.hexdigest() != entry.sha256:
            why = "its SHA-256 is not the one in the manifest"
            raise BadModelError(f"{folder / name} was changed", why, _WRITE_AGAIN)
    return data


def _model(maps: Mapping[str, memoryview], sheet: Manifest, folder: Path, limits: Limits) -> Model:
    """The model, its large weights views of the mapped file."""
    source = str(folder / manifest.MODEL)

    def size_bytes(location: str) -> int:
        if location != manifest.WEIGHTS or location not in maps:
            raise BadModelError(f"{source} refers to {location[:200]!r}", "no bundle holds that")
        return len(maps[location])

    proto = load.parse(bytes(maps[manifest.MODEL]), source, limits)
    load.check_proto(proto, source, limits, size_bytes)
    program = load.build(proto, source, folder)
    for value, tensor in weights.initializers(program):
        value.const_value = _view(tensor, maps)
    model = Model(program, sheet.signature, sheet.provenance)
    check(model, allow_nan=True)
    return model


def _view(tensor: ir.TensorProtocol, maps: Mapping[str, memoryview]) -> ir.TensorProtocol:
    """An external tensor as a view of the mapped weights; any other as it is."""
    import onnx
    import onnx_ir as ir

    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    start, shape = tensor.offset or 0, list(tensor.shape.numpy())
    data = maps[manifest.WEIGHTS][start : start + tensor.nbytes]
    if tensor.dtype.bitwidth < 8:  # several elements in a byte have to be unpacked
        packed = onnx.TensorProto(
            data_type=int(tensor.dtype), dims=shape, raw_data=bytes(data), name=tensor.name
        )
        return ir.Tensor(ir.TensorProtoTensor(packed).numpy(), dtype=tensor.dtype, name=tensor.name)
    array = np.frombuffer(data, tensor.dtype.numpy().newbyteorder("<")).reshape(shape)
    return ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
