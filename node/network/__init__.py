"""How does a node talk to its peers? Only this folder imports libp2p (docs/spec/wire.md)."""
