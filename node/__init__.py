"""The world around the chain: disk, network, clock, processes (docs/adr/0002)."""
