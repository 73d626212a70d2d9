"""What node and miner share: files, locks and clients, without trio, torch or libp2p."""
