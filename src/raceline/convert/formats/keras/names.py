"""The names that Keras gives to what a file has no other name for."""

from __future__ import annotations

import re


def snake_case(name: str) -> str:
    """A class's name as Keras's weight files spell it."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def unique(name: str, used: dict[str, int]) -> str:
    """The name, with a number from its second use on; `used` counts."""
    count = used[name] = used.get(name, -1) + 1
    return f"{name}_{count}" if count else name
