"""How are the system contracts called, and how is their storage read?"""
