"""Compiled protobuf messages (`make protos`), kept apart from those of other libraries in this process.

Two libraries that each bring a message of one name clash in protobuf's shared pool. So each file of ours gets a
pool of its own.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any


@cache
def private_pool(package: str, file: str) -> Any:
    """A descriptor pool that holds one compiled file's messages and services, and nothing else.

    Args:
        package: where the file is, for example `raceline.serve`.
        file: its name, a FileDescriptorSet as protoc writes it.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool

    compiled = descriptor_pb2.FileDescriptorSet()
    compiled.ParseFromString(files(package).joinpath(file).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for one in compiled.file:
        pool.Add(one)
    return pool


@cache
def message_class(package: str, file: str, name: str) -> Any:
    """The class of one message of a compiled file, by its full name in the protocol."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(private_pool(package, file).FindMessageTypeByName(name))
