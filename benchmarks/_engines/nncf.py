"""A peer: OpenVINO running the file that NNCF made, which no reader of ours has touched.

The file's path stands where the model's provenance names its source; settings and buffers are those of
raceline/engines/openvino.py, so that the two differ in the graph alone.
"""

from pathlib import Path
from typing import Any

from raceline import engines
from raceline.core.errors import ConfigError
from raceline.core.process import Growth
from raceline.engines import Options, Session
from raceline.ir import Model

description = "OpenVINO on a file that NNCF quantised"
_openvino: Any = engines.load("openvino")
tolerance = _openvino.tolerance


def version() -> str:
    return str(_openvino.version())


def load(model: Model, options: Options) -> Session:
    path = Path(model.provenance.source)
    if path.suffix != ".xml":
        raise ConfigError(f"nncf runs the file that it made, not {path.name}")
    core = _openvino._core()
    growth = Growth()
    with growth.measured():
        network = core.read_model(path)
        if options.shapes:
            names = _openvino._input_names(network, model.signature)
            network.reshape({i: list(options.shapes[name]) for i, name in enumerate(names)})
        compiled = core.compile_model(network, "CPU", _openvino._settings(options))
    session: Session = _openvino._Session(model.signature, compiled, options.streams, growth)
    return session
