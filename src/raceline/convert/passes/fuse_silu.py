"""Recognise x * sigmoid(x) and its kin."""

from raceline.convert.example import model_from_text
from raceline.convert.recognise import recogniser
from raceline.ir import Model

description = "Fuse x * sigmoid(x) to Silu, and x * tanh(softplus(x)) to Mish"
after: tuple[str, ...] = ("fold_affine", "merge_common_subexpressions")
tolerance = 0.0

pattern, check, rewrite = recogniser("Silu", "Mish")


def example() -> Model:
    """As every exporter writes it."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x) => (float[N, 4] y) {
            gate = Sigmoid(x)
            y = Mul(x, gate)
        }"""
    )
