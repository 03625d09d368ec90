"""Answer requests at the target latency, and measure how well that went."""

from raceline.serve.evaluate import Evaluation, Load, Machine, evaluate, saturate
from raceline.serve.loading import Choice, Settings, choose, cores_here, open_session
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
    "cores_here",
    "evaluate",
    "open_session",
    "saturate",
    "serve_bundle",
]
