"""Types of trio that the type checker does not find in trio.

A dependency of py-libp2p installs trio-typing. The checker prefers its stubs, which are of an older
trio, to the annotations of trio itself.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_typing import TaskStatus
else:
    from trio import TaskStatus

__all__ = ["TaskStatus"]
