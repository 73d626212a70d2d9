"""`python -m node.cli`: the `pot` command, wherever it is installed."""

from node.cli.main import main

main()
