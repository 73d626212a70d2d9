"""What is on this node's disk: blocks, states and blobs."""
