"""TensorFlow's messages, in a pool of their own so that a TensorFlow in the same process does not clash.

Written in protos/tensorflow.proto; tensorflow.binpb is that file compiled (`make protos`).
"""

from __future__ import annotations

from typing import Any

from raceline.convert.files import parsed
from raceline.core.protos import message_class
from raceline.ir import Limits


def message(name: str) -> Any:
    """The class of one message, for example `message("GraphDef")`."""
    return message_class(
        "raceline.convert.formats.tensorflow", "tensorflow.binpb", f"raceline.tensorflow.{name}"
    )


def parse(name: str, data: bytes, source: str, limits: Limits) -> Any:
    """Parse bytes that are not to be trusted as one message.

    Args:
        name: of the message.
        data: its bytes.
        source: the file, for messages.
        limits: what the parsed message may take.

    Raises:
        BadModelError: they are no such message, or it would grow beyond the limits.
    """
    return parsed(message(name), data, source, name, limits)
