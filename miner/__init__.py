"""The work: gradients with torch, their re-execution, and the miner that sells them."""
