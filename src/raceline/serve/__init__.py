"""Answer requests at the target latency, and measure how well that went."""

from raceline.serve.evaluate import Evaluation, Load, Machine, evaluate, saturate
from raceline.serve.loading import Choice, Settings, choose
from raceline.serve.repository import Repository
from raceline.serve.server import Server, serve_bundle

__all__ = [
    "Choice",
    "Evaluation",
    "Load",
    "Machine",
    "Repository",
    "Server",
    "Settings",
    "choose",
    "evaluate",
    "saturate",
    "serve_bundle",
]
