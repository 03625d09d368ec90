"""One model, whatever framework wrote it: graph, signature, checks, reference run, Bundle, Profile."""

from raceline.ir.model import FUSED_DOMAIN, Model
from raceline.ir.platform import PlatformProfile
from raceline.ir.probe import this_machine
from raceline.ir.profile import Candidate, Measurement, Profile
from raceline.ir.signature import Provenance, Shapes, Signature, TensorSpec, Values

__all__ = [
    "FUSED_DOMAIN",
    "Candidate",
    "Measurement",
    "Model",
    "PlatformProfile",
    "Profile",
    "Provenance",
    "Shapes",
    "Signature",
    "TensorSpec",
    "Values",
    "this_machine",
]
