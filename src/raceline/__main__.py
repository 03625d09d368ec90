"""`python -m raceline` is the command line."""

from raceline.cli import main

main()
