"""What the node keeps on disk: blocks and state, the write-ahead log, the signer guard."""
