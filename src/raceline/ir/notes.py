"""Notes that exporters leave in a graph: where its code lies, and what it was called there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

_NOTES = frozenset({"doc_string", "metadata_props"})
_EXPORTERS = "pkg."  # torch's and onnxscript's names of their own notes begin so


def forget_notes(proto: onnx.ModelProto) -> None:
    """Clear the notes of graphs, nodes, values, weights and functions, and exporters' notes of the model.

    torch notes a stack trace at every node, others a folder at the graph: names of people and machines, and
    often more bytes than 8-bit weights. What authors say of the model as a whole (its documentation, and
    metadata such as the size of its pictures) stays.
    """
    told = [entry for entry in proto.metadata_props if not entry.key.startswith(_EXPORTERS)]
    del proto.metadata_props[:]
    proto.metadata_props.extend(told)
    for part in (proto.graph, *proto.functions):
        _forget(part)


def _forget(message: Any) -> None:
    for name in _NOTES.intersection(message.DESCRIPTOR.fields_by_name):
        message.ClearField(name)
    if message.DESCRIPTOR.name == "TensorProto":
        return  # reading its fields would copy the numbers
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                _forget(part)
