"""Recognise hard swish and hard sigmoid, the piecewise linear gates."""

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.recognise import recogniser
from raceline.ir import Model

description = "Fuse x * clip(x + 3, 0, 6) / 6 to HardSwish, and clip(x + 3, 0, 6) / 6 to HardSigmoid"
after: tuple[str, ...] = ("fold_affine", "merge_common_subexpressions")
tolerance = 0.0

pattern, check, rewrite = recogniser("HardSwish", "HardSigmoid")


def example() -> Model:
    """As Paddle's exporter writes it."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, float three, float low, float six) => (float[N, 4] y) {
            shifted = Add(x, three)
            gate = Clip(shifted, low, six)
            product = Mul(x, gate)
            y = Div(product, six)
        }""",
        three=np.array(3, np.float32),
        low=np.array(0, np.float32),
        six=np.array(6, np.float32),
    )
