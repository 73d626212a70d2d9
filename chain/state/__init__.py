"""How are the accounts stored, hashed and proven?"""
