"""How does this node do its part in training tasks (docs/spec/training.md, section 10)?"""
