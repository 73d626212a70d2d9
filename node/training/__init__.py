"""The parts of the training host, each with one story (docs/spec/training.md, section 10)."""
