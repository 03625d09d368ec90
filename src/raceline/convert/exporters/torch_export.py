"""Turn a .pt2 archive into ONNX by torch's own exporter; runs in a child process, beside torch and onnxscript.

The archive's members are known to be safe before this runs (formats/torch_export/archive.py). What torch would
still unpickle, the sample inputs, is read with weights_only, from which torch otherwise falls back.
"""

import importlib
import json
import logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

_MOST_INSIDE_BYTES = 1_500_000_000  # a larger model has its weights beside it
_MOST_CHARS = 600


def guard() -> None:
    """Let torch unpickle nothing but tensors, whatever its callers ask."""
    import torch

    package = importlib.import_module("torch.export.pt2_archive._package")

    plain = torch.load

    def only_weights(*arguments: Any, **options: Any) -> Any:
        return plain(*arguments, **{**options, "weights_only": True})

    class Refusing:
        """Stands in for the pickle module."""

        def __getattr__(self, name: Any) -> Any:
            raise RuntimeError("the archive holds a pickled object")

    torch.load = only_weights
    package.pickle = Refusing()  # type: ignore[attr-defined]


def export(request: Any) -> dict[str, Any]:
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


def reason(error: BaseException) -> str:
    """What went wrong first: around it torch wraps advice to its own developers, in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    plain = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")
    return " ".join(plain.split())[:_MOST_CHARS]


def main() -> None:
    """Read the request from standard input; write the answer."""
    request = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    try:
        answer = export(request)
    except ModuleNotFoundError as error:
        answer = {"missing": error.name or "torch"}
    except Exception as error:  # noqa: BLE001  torch raises what its many parts raise
        answer = {"error": reason(error)}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
