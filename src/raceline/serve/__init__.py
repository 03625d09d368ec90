"""Answer requests at the target latency, and measure how well that went."""

from raceline.serve.evaluate import Evaluation, Load, Machine, evaluate, saturate
from raceline.serve.loading import Settings
from raceline.serve.repository import Repository
from raceline.serve.server import Server, serve_bundle

__all__ = [
    "Evaluation",
    "Load",
    "Machine",
    "Repository",
    "Server",
    "Settings",
    "evaluate",
    "saturate",
    "serve_bundle",
]
