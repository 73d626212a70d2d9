"""The `pot` command (docs/operator-guide.md)."""
