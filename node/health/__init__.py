"""How is this node doing, and why?"""
