"""Input and output that node and miner share, without trio, torch or libp2p."""
