"""Journeys through all rooms: a model file in, a served and measured endpoint out."""

from raceline.loop.console import TerminalProgress

__all__ = ["TerminalProgress"]
