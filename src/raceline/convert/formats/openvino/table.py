"""All rules, each with its attributes and declared outputs checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from raceline.convert.formats.openvino import control, image, index, math, neural, quantise, recurrent, shape
from raceline.convert.formats.openvino.settings import checked
from raceline.convert.lower import Rule, merged


@cache
def table() -> Mapping[str, Rule]:
    """Operation -> rule."""
    modules = (control, image, index, math, neural, quantise, recurrent, shape)
    return {op: checked(rule) for op, rule in merged(*(module.rules for module in modules)).items()}
