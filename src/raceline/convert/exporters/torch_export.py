"""Turn a .pt2 archive into ONNX by torch's own exporter; runs in a child process, beside torch and onnxscript.

The archive's members are known to be safe before this runs (formats/torch_export/archive.py). What torch would
still unpickle, the sample inputs, is read with weights_only, from which torch otherwise falls back.
"""

import json
import logging
import sys
import warnings
from pathlib import Path

_MOST_INSIDE_BYTES = 1_500_000_000  # a larger model has its weights beside it


def guard():
    """Let torch unpickle nothing but tensors, whatever its callers ask."""
    import pickle

    import torch
    import torch.export.pt2_archive._package as package

    plain = torch.load

    def only_weights(*arguments, **options):
        return plain(*arguments, **{**options, "weights_only": True})

    class Refusing:
        """Stands in for the pickle module."""

        PicklingError, UnpicklingError = pickle.PicklingError, pickle.UnpicklingError

        def __getattr__(self, name):
            raise RuntimeError("the archive holds a pickled object")

    torch.load = only_weights
    package.pickle = Refusing()


def export(request):
    """Do what the request asks; the answer."""
    import torch

    guard()
    folder = Path(request["folder"])
    program = torch.export.load(request["path"])
    program._guards_code = []  # code that torch would compile; shapes are checked by the graph's own signature
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    found = torch.onnx.export(program, dynamo=True, verbose=False)
    found.save(str(folder / "model.onnx"), external_data=size > _MOST_INSIDE_BYTES)
    return {"torch": torch.__version__}


def main():
    """Read the request from standard input; write the answer."""
    request = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    try:
        answer = export(request)
    except ModuleNotFoundError as error:
        answer = {"missing": error.name or "torch"}
    except Exception as error:
        lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        answer = {"error": " ".join(lines)[:600]}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
