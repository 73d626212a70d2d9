"""How is a node asked from outside?"""
