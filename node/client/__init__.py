"""How does a program ask a node from outside, over JSON-RPC?"""
