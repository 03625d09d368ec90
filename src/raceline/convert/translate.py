"""The translator: any framework's file in, the unified IR, an optimised model, a Bundle out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import raceline.convert.readers as folder
from raceline.convert.files import CHECKPOINT_WAY_OUT, CHECKPOINT_WHY, checkpoint
from raceline.convert.rewrite import Refusal, Rewrite, optimise
from raceline.convert.writing import write
from raceline.core import plugins
from raceline.core.errors import BadModelError, ConfigError, UnknownNameError, UnsupportedOperatorError
from raceline.core.progress import Progress
from raceline.ir import Model, Profile

if TYPE_CHECKING:
    from raceline.ir.bundle import Bundle
    from raceline.ir.platform import PlatformProfile

OUTPUT_IRS = ("unified_ir_v2",)

_HEAD_BYTES = 64
_POINTER = b"version https://git-lfs"
_FETCH = "It is a pointer of Git LFS: fetch the model itself with git lfs pull."
_AGAIN = (
    "It may be cut off, damaged or of another format: download or export it again, or name its format "
    "(input_format=, --format)."
)


class IRTranslator:
    """Reads a model, optimises it and writes it as a Bundle.

    Example:
        translator = IRTranslator(input_format="onnx", output_ir="unified_ir_v2")
        model = translator.optimize(translator.parse("model.onnx"))
        translator.export(model, "model.raceline")

    Attributes:
        input_format: the reader's name; None to find out from each file.
        output_ir: the intermediate representation; there is one.
        rewrites: what `optimize` last did, in order.
        refusals: where `optimize` last saw a pattern and left it, each with its reason.
    """

    def __init__(
        self,
        input_format: str | None = None,
        output_ir: str = "unified_ir_v2",
        platform_profile: PlatformProfile | str | Path | None = None,
    ) -> None:
        """Check the names; nothing is read or measured yet.

        Args:
            input_format: name of a file in readers/; None to recognise it.
            output_ir: "unified_ir_v2".
            platform_profile: the machine the model is for: a profile, the name of one that ships with
                Raceline, the path of one, or None for this machine.

        Raises:
            UnknownNameError: there is no such format or IR; the message lists those there are.
            ConfigError: the platform is neither the name of a profile nor the path of one.
        """
        known = plugins.names(folder)
        if input_format is not None and input_format not in known:
            raise UnknownNameError("input format", input_format, known)
        if output_ir not in OUTPUT_IRS:
            raise UnknownNameError("intermediate representation", output_ir, OUTPUT_IRS)
        self.input_format = input_format
        self.output_ir = output_ir
        self.rewrites: list[Rewrite] = []
        self.refusals: list[Refusal] = []
        self._platform = None if platform_profile is None else _platform_of(platform_profile)

    @property
    def platform(self) -> PlatformProfile:
        """The machine the model is for; this one is measured at first use."""
        from raceline.ir.probe import this_machine

        if self._platform is None:
            self._platform = this_machine()
        return self._platform

    def parse(self, source: Any, **options: Any) -> Model:
        """Read a model.

        Args:
            source: the model's file or folder; or the model itself as its framework has it in memory, such as a
                torch Module, where a reader takes such objects.
            options: for the reader, such as `limits`.

        Raises:
            BadModelError: there is no such file, no reader recognises it, or it is broken.
            ConfigError: the reader has no such option.
        """
        if not isinstance(source, str | Path):
            return self._parse_object(source, options)
        path = Path(source)
        if not is_there(path):
            raise BadModelError(f"there is no file {str(path)!r}", next_step="Check the path.")
        _refuse_pipes(path)
        name = self.input_format or by_content(path)
        if name is not None:
            return _with_options(name, plugins.load(folder, name, kind="input format").read, path, options)
        name = _by_name(path)
        try:
            return _with_options(name, plugins.load(folder, name).read, path, options)
        except BadModelError as error:
            raise _by_name_alone(path, name, error) from error

    def _parse_object(self, source: Any, options: dict[str, Any]) -> Model:
        """Read what a framework holds in memory."""
        names = [self.input_format] if self.input_format else plugins.names(folder)
        for name in names:
            reader = plugins.load(folder, name, kind="input format")
            if hasattr(reader, "takes") and reader.takes(source):
                return _with_options(name, reader.read_object, source, options)
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        raise BadModelError(
            f"no reader takes a {kind}",
            f"asked: {', '.join(names)}",
            "Save it with its framework and give the path.",
        )

    def optimize(self, model: Model, *, progress: Progress | None = None) -> Model:
        """Run all passes on a copy; see `rewrite.optimise`.

        Sets `rewrites` and `refusals`, and writes a sentence for every rewrite into the provenance.
        """
        result, report = optimise(model, progress=progress)
        self.rewrites = [item for item in report if isinstance(item, Rewrite)]
        self.refusals = [item for item in report if isinstance(item, Refusal)]
        return result

    @overload
    def export(
        self,
        model: Model,
        path: str | Path,
        *,
        output_format: Literal["bundle"] = "bundle",
        profile: Profile | None = None,
        equivalence: Mapping[str, Any] | None = None,
    ) -> Bundle: ...

    @overload
    def export(
        self, model: Model, path: str | Path, *, output_format: str, **options: Any
    ) -> Bundle | list[Path]: ...

    def export(
        self, model: Model, path: str | Path, *, output_format: str = "bundle", **options: Any
    ) -> Bundle | list[Path]:
        """Write a model as a Bundle (see `Bundle.write`), or in another format (see `writing.write`).

        Args:
            model: is checked before anything is written.
            path: the bundle's folder, or the file; what is there already is replaced as a whole.
            output_format: "bundle", or the name of a file in writers/.
            options: for a bundle `profile` (what was measured) and `equivalence` (the report of the comparison
                with the source); else the writer's own.

        Returns:
            the bundle, opened; or the files written, the main one first.

        Raises:
            UnknownNameError: there is no such format; the message lists those there are.
            UnsupportedOperatorError: nodes that the format cannot express, all of them.
        """
        from raceline.ir.bundle import Bundle

        if output_format == "bundle":
            return Bundle.write(Path(path), model, **options)
        return write(model, path, output_format, **options)


def _with_options(name: str, read: Any, source: Any, options: dict[str, Any]) -> Model:
    """Call a reader, once it is known to have the options."""
    known = _options_of(read)
    if unknown := sorted(set(options) - known):
        why = f"it has: {', '.join(sorted(known))}"
        raise ConfigError(f"reader {name} has no option {unknown[0]!r}", why)
    model = read(source, **options)
    assert isinstance(model, Model)
    return model


def _options_of(read: Any) -> frozenset[str]:
    return frozenset(list(inspect.signature(read).parameters)[1:])


def is_there(path: Path) -> bool:
    """Whether there is a file or folder, or a file and something named in it, as in `model.py:function`."""
    file, colon, part = str(path).rpartition(":")
    return path.exists() or (bool(colon and part) and Path(file).exists())


def _refuse_pipes(path: Path) -> None:
    """Refuse what is neither a file nor a folder: a reader would wait for it.

    Raises:
        BadModelError: it is a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise BadModelError(f"{str(path)!r} is neither a file nor a folder", next_step="Save it as a file.")


def _platform_of(profile: PlatformProfile | str | Path) -> PlatformProfile:
    """The profile itself, one that ships with Raceline, or one in a file."""
    from raceline.ir.platform import PlatformProfile, stated_platform, stated_platforms

    if isinstance(profile, PlatformProfile):
        return profile
    if str(profile) in stated_platforms():
        return stated_platform(str(profile))
    if not Path(profile).exists():
        raise ConfigError(
            f"there is no platform {str(profile)!r}",
            "it is neither a file nor the name of a profile that ships",
            f"Give a file, or one of {', '.join(stated_platforms())}.",
        )
    return PlatformProfile.load(profile)


def by_content(path: Path) -> str | None:
    """The name of the reader that recognises a file by what is in it; None where none does.

    Raises:
        BadModelError: it is a pipe, a socket or a device.
    """
    _refuse_pipes(path)
    for name in plugins.names(folder):
        if plugins.load(folder, name, kind="input format").recognises(path):
            return name
    return None


def recognise(path: Path) -> str:
    """The name of the reader for a file: by its content, else by its name so that it can say what is wrong.

    Raises:
        BadModelError: neither tells.
    """
    return by_content(path) or _by_name(path)


def _by_name(path: Path) -> str:
    """The reader whose files or folders have such a name.

    Raises:
        BadModelError: none has, or the file is a checkpoint.
    """
    if what := checkpoint(path):
        raise BadModelError(f"{path.name} is {what}", CHECKPOINT_WHY, CHECKPOINT_WAY_OUT)
    readers = {name: plugins.load(folder, name) for name in plugins.names(folder)}
    for name, reader in readers.items():
        landmark = getattr(reader, "landmark", "")
        if landmark and (path.name == landmark or (path / landmark).is_file()):
            return name
    for name, reader in readers.items():
        if path.name.lower().endswith(tuple(reader.extensions)):
            return name
    raise BadModelError(
        f"{path.name} is no model that Raceline can read",
        f"readers looked for: {', '.join(readers)}",
        "Name the model file itself. IRTranslator(input_format=...) takes a format by name.",
    )


def _by_name_alone(path: Path, name: str, error: BadModelError) -> BadModelError:
    """The reader's complaint about a file that only its name speaks for, with how the file begins."""
    if isinstance(error, UnsupportedOperatorError):
        return error
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    begins = f"; it begins with {head[:16]!r}" if head else ""
    return BadModelError(
        f"{path.name} looks like {name} by its name, and not by its content",
        f"{error.what}{f' ({error.why})' if error.why else ''}{begins}",
        _FETCH if head.startswith(_POINTER) else _AGAIN,
    )
