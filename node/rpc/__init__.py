"""JSON-RPC and blobs over HTTP, in a process of its own (docs/spec/rpc.md)."""
