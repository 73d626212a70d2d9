"""`python -m node.cli` is the `pot` command, without a script on the PATH."""

from node.cli.main import main

main()
