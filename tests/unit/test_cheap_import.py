"""The command line starts at once: importing it loads no heavy package."""

import subprocess
import sys

HEAVY = "torch onnx onnx_ir onnxruntime openvino MNN grpc jax ray kubernetes tensorflow"


def test_command_line_imports_nothing_heavy():
    probe = f"import sys, raceline.cli; print(sorted(set({HEAVY!r}.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
