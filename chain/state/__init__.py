"""How is the state of all accounts stored, hashed and proven?"""
