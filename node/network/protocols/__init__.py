"""What is sent over each protocol id? One module each (docs/spec/wire.md, sections 3 to 9)."""
