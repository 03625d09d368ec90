"""What happened, in the field's formats: metrics, spans, logs. Decides nothing."""

__all__: list[str] = []
