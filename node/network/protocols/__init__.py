"""One module a protocol id (docs/spec/wire.md, sections 3 to 7)."""
