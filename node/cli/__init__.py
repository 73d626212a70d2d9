"""What can people type? The `pot` command (docs/operator-guide.md)."""
