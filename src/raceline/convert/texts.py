"""Options of readers and writers as text, as a command line has them, read by the annotations of the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raceline.core.errors import ConfigError

_WORDS = {"true": True, "false": False}


def parsed_texts(what: str, known: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, Any]:
    """The values of options.

    Args:
        what: takes them, for messages: "writer onnx".
        known: option -> its annotation.
        texts: option -> `true` or `false`, a number, a name, `a,b` for a list, or `a:1,b:2` for a mapping.

    Raises:
        ConfigError: there is no such option, or the text is none of its values.
    """
    refuse_unknown(what, known, texts)
    found = {}
    for option, text in texts.items():
        try:
            found[option] = _parsed(known[option], text)
        except ValueError as error:
            raise ConfigError(f"{option}={text}", str(error)) from error
    return found


def refuse_unknown(what: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse options that are not known.

    Raises:
        ConfigError: one is not; the message lists those there are.
    """
    for option in given:
        if option not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{what} has no option {option!r}", f"it has: {listed}")


def _parsed(kind: str, text: str) -> Any:
    """One value.

    Raises:
        ValueError: the text is none.
    """
    if "Sequence" in kind:
        return text.split(",")
    if "Mapping" in kind:
        pairs = [_pair(item) for item in text.split(",")]
        return {name: _whole(value) if "int" in kind else value for name, value in pairs}
    if kind.startswith("bool"):
        if text not in _WORDS:
            raise ValueError("write true or false")
        return _WORDS[text]
    if kind.startswith("int"):
        return _whole(text)
    if kind.startswith("float"):
        return _number(text)
    return text


def _pair(item: str) -> tuple[str, str]:
    name, sign, value = item.rpartition(":")
    if not sign:
        raise ValueError(f"{item!r} has no ':': write NAME:VALUE,NAME:VALUE")
    return name, value


def _whole(text: str) -> int:
    if not text.removeprefix("-").isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
