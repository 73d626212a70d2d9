"""How are JSON-RPC and blobs served over HTTP, in processes of their own (docs/spec/rpc.md)?"""
