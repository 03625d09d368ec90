"""Answer requests at the target latency."""

__all__: list[str] = []
