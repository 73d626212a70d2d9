"""Hypothesis without luck: the same examples on every machine, and no deadline on a busy one.

New examples are looked for with `pytest --hypothesis-profile=explore`.
"""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("steady")
