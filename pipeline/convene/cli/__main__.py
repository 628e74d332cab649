"""The entry point of `python -m convene.cli`, the same as `convene`."""

from convene.cli import main

main()
