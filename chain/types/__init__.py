"""The values that are hashed, signed, stored and sent."""
