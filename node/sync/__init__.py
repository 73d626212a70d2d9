"""Catching up with the finalized chain."""
