"""Compiled messages in pools of their own."""

from raceline.core.protos import message_class, private_pool
from raceline.serve import messages


def test_one_name_in_two_pools_is_two_messages():
    """Another library in this process may bring a message of the same name."""
    ours = message_class("raceline.serve", "kserve_v2.binpb", "inference.ModelInferRequest")
    assert ours is messages.message("ModelInferRequest")
    from google.protobuf import descriptor_pool

    assert private_pool("raceline.serve", "kserve_v2.binpb") is not descriptor_pool.Default()
    assert ours.DESCRIPTOR.file.pool is private_pool("raceline.serve", "kserve_v2.binpb")
    request = ours(model_name="net")
    assert ours.FromString(request.SerializeToString()).model_name == "net"
