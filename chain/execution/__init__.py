"""Executing transactions: py-evm behind one door, and what stands around it."""
