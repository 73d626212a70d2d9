"""Peer to peer: everything that knows libp2p, and nothing else does (docs/spec/wire.md)."""
