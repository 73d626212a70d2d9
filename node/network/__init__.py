"""How does a node talk to its peers? Only this folder knows libp2p (docs/spec/wire.md)."""
