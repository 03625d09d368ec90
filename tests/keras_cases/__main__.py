"""Save networks by name, all by default; what fails is told at the end."""

import os
import sys

from keras_cases import CASES, write

os.environ.setdefault("KERAS_BACKEND", "torch")
failed = {}
for wanted in sys.argv[2:] or CASES:
    try:
        write(sys.argv[1], wanted)
    except Exception as error:  # noqa: BLE001  each case by itself
        failed[wanted] = f"{type(error).__name__}: {str(error)[:300]}"
for key, text in failed.items():
    sys.stderr.write(f"{key}: {text}\n")
