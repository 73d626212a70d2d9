"""How does a large consensus message reach all validators in coded pieces?"""
