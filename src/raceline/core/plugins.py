"""Find plug-ins: one file in a folder is one plug-in, and the file's name is its public name."""

import importlib
import pkgutil
from types import ModuleType

from raceline.core.errors import MissingDependencyError, UnknownNameError


def names(folder: ModuleType) -> list[str]:
    """List the plug-ins of `folder`, without importing any of them."""
    return sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))


def load(folder: ModuleType, name: str, kind: str = "plug-in", install: str = "") -> ModuleType:
    """Import one plug-in by its file name.

    Args:
        folder: the package whose files are the plug-ins.
        name: the file's name without `.py`.
        kind: what the reader calls such a plug-in, for the message.
        install: the command that brings what the folder's plug-ins need; empty: pip with the missing module.

    Raises:
        UnknownNameError: no file has that name; the message lists those that exist.
        MissingDependencyError: the plug-in imports a package that is not installed.
    """
    known = names(folder)
    if name not in known:
        raise UnknownNameError(kind, name, known)
    try:
        return importlib.import_module(f"{folder.__name__}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "?").split(".")[0]
        if missing == "raceline":
            raise  # a bug of ours, not a missing extra
        command = install or f"pip install {missing}"
        raise MissingDependencyError(f"{kind} {name}", missing, command) from error
