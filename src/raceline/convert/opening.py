"""Open a model of any kind by its path: a bundle, or a file or folder that a reader takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raceline.convert.translate import IRTranslator
from raceline.ir import Bundle, Limits, Model, manifest


def open_model(path: str | Path, *, input_format: str | None = None, limits: Limits | None = None) -> Model:
    """Read the model at a path.

    Args:
        path: a bundle's folder, or what a reader takes.
        input_format: the reader's name; None to recognise it.
        limits: what it may ask of this machine.

    Raises:
        BadModelError: there is none, or it is broken.
    """
    place = Path(path)
    if input_format is None and (place / manifest.NAME).is_file():
        return Bundle.open(place, limits=limits).model
    options: dict[str, Any] = {} if limits is None else {"limits": limits}
    return IRTranslator(input_format).parse(path, **options)
