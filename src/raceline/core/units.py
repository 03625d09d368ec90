"""Units as people write them: sizes, durations, and names that carry their unit."""

import re

from raceline.core.errors import ConfigError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_SIZE = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB, "g": GIB, "gib": GIB,
         "kb": 10**3, "mb": 10**6, "gb": 10**9}  # fmt: skip

_DURATION = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def parse_size_bytes(text: str) -> int:
    """Bytes of a size such as `512MiB`, `2GiB`, `1.5G` or `4096`.

    Raises:
        ConfigError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _SIZE:
        raise ConfigError(
            f"{text!r} is not a size", next_step="Write it as 512MiB, 2GiB or a number of bytes."
        )
    return int(float(match[1]) * _SIZE[match[2].lower()])


def parse_duration_s(text: str) -> float:
    """Seconds of a duration such as `60s`, `1.5min`, `1h` or `90`.

    Raises:
        ConfigError: not a duration, or none at all.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if match is None or match[2] not in _DURATION or not float(match[1]):
        raise ConfigError(f"{text!r} is not a duration", next_step="Write it as 60s, 5min or 1h.")
    return float(match[1]) * _DURATION[match[2]]


def counted(count: int, thing: str) -> str:
    """So many things, as in `1 node` and `2 nodes`; the last word is a noun whose plural takes an s."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def format_bytes(size_bytes: float) -> str:
    """A size for people, three digits (four from 1000 on) and a binary unit."""
    for unit, scale in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size_bytes) >= 0.9995 * scale:  # 1023.9 KiB are a MiB
            value = size_bytes / scale
            return f"{value:.3g} {unit}" if abs(value) < 999.5 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def format_seconds(duration_s: float) -> str:
    """A duration for people: µs, ms, s or min."""
    if abs(duration_s) >= 120:
        return f"{duration_s / 60:.3g} min"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(duration_s) >= 0.9995 * scale:
            return f"{duration_s / scale:.3g} {unit}"
    return f"{duration_s * 1e9:.3g} ns"
