"""Where something is missing to build the native module, the message says what to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"


def configure(folder, **environment):
    """What CMake says, and whether it was content; no compiler of this machine is in sight."""
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if not cmake or not ninja:
        pytest.skip("needs cmake and ninja: pip install cmake ninja")
    command = [cmake, "-S", NATIVE, "-B", folder / "build", "-G", "Ninja"]
    command += [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}"]
    bare = {k: v for k, v in os.environ.items() if k not in {"CXX", "CC", "PATH"}}
    done = subprocess.run(
        command, env=bare | {"PATH": str(folder)} | environment, capture_output=True, text=True
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("environment", [{}, {"CXX": "/nonexistent/g++"}], ids=["none", "wrong CXX"])
def test_without_a_compiler_the_message_says_what_to_install(tmp_path, environment):
    code, said = configure(tmp_path, **environment)
    assert code != 0
    assert "No C++ compiler was found" in said
    assert "apt install g++" in said


def test_a_compiler_that_is_too_old_is_named(tmp_path):
    """A stand-in that calls the real compiler and pretends to be g++ 9."""
    real = shutil.which("g++")
    if real is None:
        pytest.skip("needs g++")
    old = tmp_path / "g++-9"
    old.write_text(f'#!/bin/sh\nexec {real} -U__GNUC__ -D__GNUC__=9 "$@"\n')
    old.chmod(0o755)
    code, said = configure(tmp_path, CXX=str(old), PATH=os.environ["PATH"])
    assert code != 0
    assert "needs g++ 11 or newer" in said
