"""`python -m pipeline.cli`, the same as `convene`."""

from pipeline.cli import main

main()
