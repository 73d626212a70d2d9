"""How are transactions executed? Only this package uses py-evm."""
