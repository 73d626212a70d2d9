"""The `pot` command (docs/operators.md)."""
