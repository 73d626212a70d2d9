"""What all tests share.

Hypothesis draws the same examples on every machine, and has no deadline on a busy one.
`pytest --hypothesis-profile=explore` looks for new examples.

Commands wrap their sentences at COLUMNS. A terminal may export it, and processes that run tests
beside each other have it set; a test that needs it sets it.
"""

import os

from hypothesis import settings

os.environ.pop("COLUMNS", None)

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("steady")
