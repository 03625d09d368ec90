"""Give a network weights and inputs, and save it with what it computes."""

from pathlib import Path

import numpy as np

from keras_cases.building import CASES


def randomise(model, seed):
    """Weights that no layer would start with, so that two of them cannot be mistaken for each other."""
    rng = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        array = rng.normal(size=weight.shape) * 0.4
        values.append((np.abs(array) + 0.5 if "variance" in weight.name else array).astype("float32"))
    model.set_weights(values)


def feeds_of(model, batch, seed):
    """Inputs by name; open axes have 6 elements."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in model.inputs:
        shape = [batch, *(6 if size is None else size for size in tensor.shape[1:])]
        name, dtype = tensor.name, str(tensor.dtype)
        whole = rng.integers(0, 5, shape)
        feeds[name] = (whole if "int" in dtype else rng.normal(size=shape)).astype(dtype)
    return feeds


def flat(outputs):
    if isinstance(outputs, dict):
        return [leaf for key in sorted(outputs) for leaf in flat(outputs[key])]
    if isinstance(outputs, list | tuple):
        return [leaf for item in outputs for leaf in flat(item)]
    return [outputs]


def write(folder, name):
    """Save one case: the model in both formats, its inputs and what Keras computes of them."""
    import keras

    keras.utils.clear_session()
    model = CASES[name]()
    randomise(model, seed=len(name))
    arrays = {}
    for batch in (1, 3):
        feeds = feeds_of(model, batch, seed=batch)
        ordered = [feeds[tensor.name] for tensor in model.inputs]
        outputs = model(ordered if len(ordered) > 1 else ordered[0], training=False)
        arrays |= {f"in:{batch}:{key}": array for key, array in feeds.items()}
        arrays |= {
            f"out:{batch}:{i}": keras.ops.convert_to_numpy(leaf) for i, leaf in enumerate(flat(outputs))
        }
    np.savez(Path(folder) / f"{name}.npz", **arrays)
    model.save(Path(folder) / f"{name}.keras")
    model.save(Path(folder) / f"{name}.h5")
