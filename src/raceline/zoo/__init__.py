"""Networks to start from, by task."""

__all__: list[str] = []
