"""One file a room, run as `python -m benchmarks.ROOM`; each prints a table and, with --json, figures."""
