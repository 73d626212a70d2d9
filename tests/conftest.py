"""Hypothesis draws the same examples on every machine, and has no deadline on a busy one.

`pytest --hypothesis-profile=explore` looks for new examples.
"""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("steady")
