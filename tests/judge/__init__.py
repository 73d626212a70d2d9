"""A second implementation of Ethereum executes the blocks of our builder again."""
