"""ONNX's own operator cases through reader, passes and engine, by benchmarks/_conformance.py."""

import json
import subprocess
import sys
from collections import Counter

import pytest

REFUSED = {
    "ImageDecoder without its library": " ".join(
        f"test_image_decoder_decode_{kind}"
        for kind in "bmp_rgb jpeg2k_rgb jpeg_bgr jpeg_grayscale jpeg_rgb png_rgb pnm_rgb tiff_rgb webp_rgb".split()
    ),
}
"""What the reference refuses, by reason."""


def outcomes(tmp_path, *arguments):
    """Every outcome of a run; it has a process of its own, as it forks."""
    path = tmp_path / "outcomes.json"
    command = [sys.executable, "-m", "benchmarks._conformance", "--json", str(path), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=3000)
    return json.loads(path.read_text())


def unexpected(found):
    refused = {name for names in REFUSED.values() for name in names.split()}
    return [one for one in found if one["status"] != "passed" and one["case"] not in refused]


def test_a_sample_on_the_reference(tmp_path):
    found = outcomes(tmp_path, "--engine", "reference", "--sample", "120")
    assert len(found) == 120 and unexpected(found) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_on_the_reference(tmp_path):
    found = outcomes(tmp_path, "--engine", "reference")
    assert unexpected(found) == []
    assert Counter(one["status"] for one in found)["passed"] >= 1863
