"""TensorFlow's messages, in a pool of their own so that a TensorFlow in the same process does not clash.

Written in protos/tensorflow.proto; tensorflow.binpb is that file compiled (`make protos`).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from raceline.convert.files import too_large
from raceline.core.errors import BadModelError
from raceline.ir import Limits, wire
from raceline.ir.load import PARSE_FAILURES

_PACKAGE = "raceline.tensorflow"


@cache
def message(name: str) -> Any:
    """The class of one message, for example `message("GraphDef")`."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    compiled = descriptor_pb2.FileDescriptorSet()
    compiled.ParseFromString(files(__package__).joinpath("tensorflow.binpb").read_bytes())
    own = descriptor_pool.DescriptorPool()
    for file in compiled.file:
        own.Add(file)
    return own


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
    from google.protobuf.message import DecodeError

    result = message(name)()
    try:
        if len(data) * wire.WORST_GROWTH > limits.max_model_bytes:
            size = wire.parsed_size_bytes(data, result.DESCRIPTOR)
            if size > limits.max_model_bytes:
                raise too_large(source, size, limits)
        result.ParseFromString(data)
    except (DecodeError, *PARSE_FAILURES) as error:
        what = f"{source} is no whole {name}"
        raise BadModelError(what, "it is cut off, or something else", "Export it again.") from error
    return result
