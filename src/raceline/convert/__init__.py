"""Any framework in, an optimised and measured Bundle out."""

__all__: list[str] = []
