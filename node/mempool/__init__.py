"""Which transactions wait for a block?"""
