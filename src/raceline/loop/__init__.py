"""Journeys through all rooms: a model file in, a served and measured endpoint out."""

from raceline.loop.console import TerminalProgress, wide_console
from raceline.loop.deploy import deploy
from raceline.loop.deployment import Deployment, Plan, Served
from raceline.loop.needs import Counted
from raceline.loop.recommend import count_network, recommend
from raceline.loop.recommend import lines as recommendation_lines
from raceline.loop.report import comparison, show
from raceline.loop.tuning import Best, Tuned, show_tuned, tune_bundle

__all__ = [
    "Best",
    "Counted",
    "Deployment",
    "Plan",
    "Served",
    "TerminalProgress",
    "Tuned",
    "comparison",
    "count_network",
    "deploy",
    "recommend",
    "recommendation_lines",
    "show",
    "show_tuned",
    "tune_bundle",
    "wide_console",
]
