"""Networks for the Keras reader, built by Keras itself: name -> function that returns a model.

Run as a program, in the folder above, it saves each with random weights, inputs and what Keras computes:

    KERAS_BACKEND=torch python -m keras_cases FOLDER [NAME ...]
"""

from keras_cases import layers, operations, recurrent, structure
from keras_cases.building import CASES, function
from keras_cases.saving import flat, randomise, write

__all__ = [
    "CASES",
    "flat",
    "function",
    "layers",
    "operations",
    "randomise",
    "recurrent",
    "structure",
    "write",
]
