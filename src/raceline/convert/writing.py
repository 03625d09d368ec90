"""Write a model in another format, and prove what was written: run in its own runtime, held to the reference."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import raceline.convert.writers as folder
from raceline.convert.equivalence import Difference, Equivalence, compare
from raceline.convert.texts import parsed_texts, refuse_unknown
from raceline.core import plugins
from raceline.core.progress import Progress, Silent
from raceline.ir import Model, Reference, make_inputs, suggest_sizes

Tensors = Mapping[str, np.ndarray[Any, Any]]
_WANTED_SIZES = 3
_SEEDS = (0, 1)


def names() -> list[str]:
    """All formats that models are written in, a bundle excepted."""
    return plugins.names(folder)


def writer(name: str) -> Any:
    """The writer of that name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    return plugins.load(folder, name, kind="output format")


def options_of(name: str) -> dict[str, str]:
    """The options that a writer takes, with their types as written in the code."""
    parameters = list(inspect.signature(writer(name).write).parameters.values())[2:]
    return {parameter.name: str(parameter.annotation) for parameter in parameters}


def parsed_options(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Options of a writer from text, as a command line has them.

    Args:
        name: the writer's.
        texts: option -> `true` or `false`, a number, a name, or `axis:4,axis:16` for sizes.

    Raises:
        ConfigError: the writer has no such option, or the text is none of its values.
    """
    return parsed_texts(f"writer {name}", options_of(name), texts)


def write(model: Model, path: str | Path, output_format: str, **options: Any) -> list[Path]:
    """Write a model in another format, whole or not at all.

    Args:
        model: stays as it is.
        path: of the main file, or of a folder.
        output_format: the name of a file in writers/.
        options: of that writer.

    Returns:
        the files written, the main one first.

    Raises:
        UnknownNameError: there is no such format.
        ConfigError: the writer has no such option, or may not write there.
        UnsupportedOperatorError: nodes that the format cannot express, all of them.
    """
    author = writer(output_format)
    known = options_of(output_format)
    refuse_unknown(f"writer {output_format}", known, options)
    files: list[Path] = author.write(model, Path(path), **options)
    return files


def prove(
    model: Model,
    output_format: str,
    path: str | Path,
    *,
    sizes: Sequence[Mapping[str, int]] | None = None,
    seeds: Sequence[int] = _SEEDS,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Equivalence:
    """Run what was written in its own runtime and compare it with the reference run of the model.

    Args:
        model: what was given to `write`.
        output_format: how it was written.
        path: as given to `write`.
        sizes: of the dynamic axes, at least one mapping; None for up to three that work.
        seeds: inputs are generated anew for each.
        options: as given to `write`.
        progress: told of each run.

    Raises:
        BadModelError: the runtime refuses what was written.
        BackendLostError: it crashed.
    """
    author, options = writer(output_format), dict(options or {})
    tried = [dict(one) for one in (_sizes(model, options) if sizes is None else sizes)]
    pairs = [(one, seed) for one in tried for seed in seeds]
    inputs = [make_inputs(model.signature, model.signature.concrete(one), seed=seed) for one, seed in pairs]
    tolerance = author.tolerance(**options)
    reference = Reference(model)
    worst: dict[str, Difference] = {}
    with (progress or Silent()).step(f"prove {Path(path).name}", len(pairs) + 1) as step:
        results = author.run(Path(path), inputs, **options)
        step.advance(note="run in its own runtime")
        for feeds, got, pair in zip(inputs, results, pairs, strict=True):
            expected = reference.run(feeds)
            held = got if author.exact_types else _widened(got, expected)
            for found in compare(reference, feeds, held, tolerance, expected=expected):
                worst[found.name] = max(worst.get(found.name, found), found, key=_badness)
            step.advance(note=f"{pair[0]}")
    return Equivalence(
        candidate=f"{output_format} in its own runtime",
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        cases=tuple(tried),
        seeds=tuple(seeds),
        outputs=tuple(worst.values()),
    )


def _sizes(model: Model, options: Mapping[str, Any]) -> list[dict[str, int]]:
    """Sizes to try: those that were fixed, or up to three that the model runs with."""
    fixed = dict(options.get("sizes") or {})
    if set(model.signature.dynamic_axes) <= set(fixed):
        return [{axis: fixed[axis] for axis in model.signature.dynamic_axes}]
    found = suggest_sizes(model, want=_WANTED_SIZES)
    return [{**one, **fixed} for one in found]


def _widened(got: Tensors, expected: Tensors) -> dict[str, np.ndarray[Any, Any]]:
    """What a runtime holds in fewer bits, in the type that the signature promises."""
    return {
        name: array.astype(expected[name].dtype) if name in expected and array.dtype.kind != "O" else array
        for name, array in got.items()
    }


def _badness(found: Difference) -> tuple[bool, float]:
    return not found.ok, np.inf if found.max_rel is None else found.max_rel
