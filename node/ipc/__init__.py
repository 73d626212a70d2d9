"""How the node process and the RPC process speak: a Unix socket (docs/spec/rpc.md, section 7)."""
