"""What validators hold of gradients, in a task that audits a sample (docs/spec/training.md, section 5).
"""

from enum import IntEnum


class Availability(IntEnum):
    """What a validator holds of one gradient, in a task that audits a sample."""

    HELD = 0
    """The complete and well-formed payload is held."""
    UNAVAILABLE = 1
    """Late in the phase, no well-formed payload that opens the commitment is held."""
    UNCHECKED = 2
    """All bytes are held, but the validator lacked the time to check their form."""
