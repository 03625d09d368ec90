"""A net of classes, pictures for it, and a judge of its answers."""

from dataclasses import replace

import numpy as np

from raceline.convert import quantise
from raceline.convert.example import model_from_text
from raceline.ir import run_reference


def classifier():
    """Two convolutions with a residual sum, pooled, and a linear layer."""
    return batched(
        model_from_text(
            """<ir_version: 8, opset_import: ["": 17]>
        net (float[N, 3, 8, 8] x, float[8, 3, 3, 3] w1, float[8] b1, float[8, 8, 3, 3] w2, float[8, 5] w3)
            => (float[N, 5] y) {
            c = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Relu(c)
            d = Conv<pads = [1, 1, 1, 1]>(r, w2)
            s = Add(d, r)
            t = Relu(s)
            p = GlobalAveragePool(t)
            f = Flatten(p)
            y = MatMul(f, w3)
        }""",
            w1=(8, 3, 3, 3),
            b1=(8,),
            w2=(8, 8, 3, 3),
            w3=(8, 5),
        )
    )


def batched(model):
    return replace(model, signature=replace(model.signature, batch_axis="N"))


def data(items=24, seed=0):
    return np.random.default_rng(seed).standard_normal((items, 3, 8, 8)).astype(np.float32)


def judge_of(model, samples, budget, run=None):
    """A judge that runs models in this process, by the reference."""

    def reference(model, engine, samples, precision="fp32"):
        return [run_reference(model, call) for call in samples.full_batches(samples.batch)]

    return quantise.Judge(model, samples, budget, run=run or reference)


def labelled(model, items=24, wrong=6):
    x = data(items)
    labels = run_reference(model, {"x": x})["y"].argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % 5
    return quantise.from_arrays(model.signature, {"x": x}, labels=labels, batch=5)
