"""How do the node process and the RPC processes talk (docs/spec/rpc.md, section 7)?"""
