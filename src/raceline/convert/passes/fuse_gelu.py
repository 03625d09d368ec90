"""Recognise the GELU in its exact, its tanh and its sigmoid form."""

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.recognise import recogniser
from raceline.ir import Model

description = "Fuse the spellings of GELU: by erf, by tanh (GeluTanh), by sigmoid (QuickGelu)"
after: tuple[str, ...] = ("fold_affine", "merge_common_subexpressions")
tolerance = 0.0

pattern, check, rewrite = recogniser("Gelu", "GeluTanh", "QuickGelu")


def example() -> Model:
    """As torch's exporter writes it for opsets without a Gelu."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, float r, float one, float half) => (float[N, 4] y) {
            scaled = Div(x, r)
            e = Erf(scaled)
            sum = Add(e, one)
            product = Mul(x, sum)
            y = Mul(product, half)
        }""",
        r=np.array(np.sqrt(2), np.float32),
        one=np.array(1, np.float32),
        half=np.array(0.5, np.float32),
    )
