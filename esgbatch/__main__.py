"""`python -m esgbatch`."""

from esgbatch.cli.app import main

main()
