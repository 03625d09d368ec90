"""Raceline: simulate, label, train, convert, serve, schedule, update, and learn from what the fleet saw."""

__version__ = "0.1.0"
