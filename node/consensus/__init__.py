"""How does this node take part in PBFT?"""
