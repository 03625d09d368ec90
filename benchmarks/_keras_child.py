"""Beside Keras, in a process of its own: save a network, what it computes, and how long Keras's own export takes.

python benchmarks/_keras_child.py FOLDER
"""

import json
import statistics
import sys
import time
from pathlib import Path

import keras
import numpy as np

TIMES = 3


def main(folder: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None
    )
    model.save(folder / "mobilenet_v2.keras")
    arrays = {}
    for seed in (0, 1):
        x = np.random.default_rng(seed).uniform(-1, 1, (2, 96, 96, 3)).astype(np.float32)
        arrays[f"out{seed}"] = keras.ops.convert_to_numpy(model(x, training=False))
    np.savez(folder / "keras.npz", **arrays)
    seconds = []
    try:
        for _ in range(TIMES):
            began_s = time.perf_counter()
            model.export(folder / "peer.onnx", format="onnx", verbose=False)
            seconds.append(time.perf_counter() - began_s)
        told = {"seconds": statistics.median(seconds)}
    except Exception as error:  # noqa: BLE001  whatever stops the peer is its result
        told = {"refusal": " ".join(str(error).split())[:200]}
    (folder / "keras.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
