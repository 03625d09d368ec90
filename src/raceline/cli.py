"""The command line: `raceline ROOM VERB`, thin; it knows doors only."""


def main() -> None:
    """Run the command line."""
