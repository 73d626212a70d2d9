"""What the exit status of an RPC process tells the node (docs/spec/rpc.md, section 5)."""

from typing import Final

CANNOT_START: Final = 78
"""The settings allow no start, and the log says why; as EX_CONFIG of sysexits.h. Python ends with 1
after any exception that nothing catches, such as a lack of memory, so 1 says nothing of settings.
"""
