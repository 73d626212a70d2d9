"""The protocol: pure rules, no I/O, no clock, no chance (docs/adr/0002)."""
