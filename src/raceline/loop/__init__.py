"""Journeys through all rooms."""

__all__: list[str] = []
