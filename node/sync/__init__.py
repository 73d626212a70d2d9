"""How does a node catch up with the finalized chain?"""
