"""The KServe v2 messages, in a pool of their own so that a Triton client in the same process does not clash.

Written in protos/kserve_v2.proto; kserve_v2.binpb is that file compiled (`make protos`).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from raceline.core.protos import message_class, private_pool

SERVICE = "inference.GRPCInferenceService"
_FILE = "kserve_v2.binpb"
_PACKAGE = SERVICE.rpartition(".")[0]


@dataclass(frozen=True)
class Rpc:
    """One remote procedure of the service.

    Attributes:
        name: as in the protocol, for example `ModelInfer`.
        request: class of the message that comes in.
        response: class of the message that goes out.
        streams: whether both sides send many messages.
    """

    name: str
    request: Any
    response: Any
    streams: bool


def pool() -> Any:
    """A private descriptor pool that holds the protocol and nothing else."""
    return private_pool("raceline.serve", _FILE)


def message(name: str) -> Any:
    """The class of one message, for example `message("ModelInferRequest")`."""
    return message_class("raceline.serve", _FILE, f"{_PACKAGE}.{name}")


@cache
def rpcs() -> dict[str, Rpc]:
    """All procedures of the service by name."""
    return {
        method.name: Rpc(
            method.name,
            message(method.input_type.name),
            message(method.output_type.name),
            method.server_streaming,
        )
        for method in pool().FindServiceByName(SERVICE).methods
    }
