"""One model, whatever framework wrote it: graph, signature, checks, reference run, Bundle, Profile."""

from raceline.ir.axes import signature_of, with_batch_axis
from raceline.ir.bundle import Bundle
from raceline.ir.check import check
from raceline.ir.cost import Cost, NodeCost, cost
from raceline.ir.inputs import make_inputs, prove_batch_axis, suggest_sizes
from raceline.ir.limits import Limits
from raceline.ir.model import FUSED_DOMAIN, Model
from raceline.ir.platform import PlatformProfile
from raceline.ir.probe import this_machine
from raceline.ir.profile import FULL, WEIGHTS_ONLY, Accuracy, Candidate, Measurement, Profile
from raceline.ir.reference import Reference, run_reference
from raceline.ir.serialise import IR_VERSION_CAP, OPSET_CAP, structural_sha256, to_proto, write_onnx
from raceline.ir.shapes import ShapeTable, infer_shapes
from raceline.ir.signature import Provenance, Shapes, Signature, TensorSpec, Values
from raceline.ir.values import infer_values

__all__ = [
    "FULL",
    "FUSED_DOMAIN",
    "IR_VERSION_CAP",
    "OPSET_CAP",
    "WEIGHTS_ONLY",
    "Accuracy",
    "Bundle",
    "Candidate",
    "Cost",
    "Limits",
    "Measurement",
    "Model",
    "NodeCost",
    "PlatformProfile",
    "Profile",
    "Provenance",
    "Reference",
    "ShapeTable",
    "Shapes",
    "Signature",
    "TensorSpec",
    "Values",
    "check",
    "cost",
    "infer_shapes",
    "infer_values",
    "make_inputs",
    "prove_batch_axis",
    "run_reference",
    "signature_of",
    "structural_sha256",
    "suggest_sizes",
    "this_machine",
    "to_proto",
    "with_batch_axis",
    "write_onnx",
]
