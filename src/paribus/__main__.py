"""`python -m paribus`: the same as `paribus`."""

from paribus.cli import main

main()
