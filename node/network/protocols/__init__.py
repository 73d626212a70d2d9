"""One module for each protocol id (docs/spec/wire.md, sections 3 to 9)."""
