"""How does a whole network run on one machine?"""
