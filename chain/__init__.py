"""The protocol: pure rules without I/O, clock or randomness (docs/adr/0002)."""
