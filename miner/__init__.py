"""The miner, and the worker that verifies gradients: everything that needs torch."""
