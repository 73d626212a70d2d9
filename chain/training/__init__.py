"""The training protocol: specification, assignment, exact numbers, acceptance, rewards."""
