"""From an ML program to a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.files import sha256
from raceline.convert.formats.coreml import control, math, neural, shape
from raceline.convert.formats.coreml.call import checked
from raceline.convert.formats.coreml.nodes import Context, run_block
from raceline.convert.formats.coreml.package import Source, load
from raceline.convert.formats.coreml.values import type_of
from raceline.convert.lower import Rule, merged
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model, Provenance

_COLOURS = {10: "grayscale", 20: "RGB", 30: "BGR", 40: "grayscale, 16 bits"}


@cache
def table() -> Mapping[str, Rule]:
    """Operation -> rule."""
    return {
        op: checked(rule) for op, rule in merged(control.rules, math.rules, neural.rules, shape.rules).items()
    }


def read_program(path: Path, limits: Limits) -> Model:
    """Read a package or a single file.

    Raises:
        BadModelError: it is broken, hostile, beyond the limits, or no ML program.
        UnsupportedOperatorError: operations that have no rule, all of them.
    """
    source = load(path, limits)
    block, function = _main(source)
    b = Builder(path.stem[: limits.max_name_chars], limits=limits)
    if len(block.operations) > limits.max_nodes:
        raise BadModelError(
            f"{source.name} is too large", f"it has more than the limit of {limits.max_nodes} nodes"
        )
    values: dict[str, Any] = {}
    for item in function.inputs:
        values[item.name] = _input(b, item, source)
    run_block(b, block, Context(source, table()), values)
    for name in block.outputs:
        if name not in values or isinstance(values[name], str | list):
            raise BadModelError(f"{source.name} is broken", f"nothing writes the output {name[:100]!r}")
        value = values[name]
        b.output(b.constant(value) if isinstance(value, np.ndarray) else value, name)
    model = b.model(
        Provenance(
            source=path.name,
            source_format="coreml",
            source_sha256=sha256(source.files),
            producer=_producer(source),
        )
    )
    for step in _steps(source):
        model = model.with_step(step)
    return model


def _main(source: Source) -> tuple[Any, Any]:
    """The block and the function that a prediction runs."""
    program = source.message.mlProgram
    wanted = source.message.description.defaultFunctionName or "main"
    if wanted not in program.functions:
        raise BadModelError(f"{source.name} is broken", f"it has no function {wanted[:100]!r}")
    function = program.functions[wanted]
    if function.opset not in function.block_specializations:
        raise BadModelError(
            f"{source.name} is broken", f"function {wanted[:100]!r} has no block of its opset"
        )
    return function.block_specializations[function.opset], function


def _input(b: Builder, item: Any, source: Source) -> Any:
    if item.type.WhichOneof("type") == "stateType":
        raise BadModelError(
            f"{source.name} keeps state between calls",
            f"in {item.name[:100]!r}",
            "Convert it without states.",
        )
    try:
        dtype, dims = type_of(item.type)
    except BadModelError as error:
        raise BadModelError(f"{source.name}: input {item.name[:100]!r}: {error.what}", error.why) from error
    return b.input(item.name, dtype, dims)


def _producer(source: Source) -> str:
    given = source.message.description.metadata.userDefined
    version = given.get("com.github.apple.coremltools.version", "")
    return f"coremltools {version}"[:100].strip() if version else ""


def _steps(source: Source) -> list[str]:
    """What a caller should know of inputs that Core ML takes as pictures."""
    steps = []
    for item in source.message.description.input:
        if item.type.HasField("imageType"):
            image = item.type.imageType
            colour = _COLOURS.get(image.colorSpace, "of unknown colours")
            size = f"{image.width} x {image.height}"
            steps.append(
                f"Input {item.name!r} was a picture ({colour}, {size}); it is a tensor of numbers 0 to 255 now, "
                "channels first."
            )
    return steps
