"""The types of decoded JSON."""

from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A decoded JSON value. What the chain hashes has no floats: its decoders refuse them."""

JsonObject: TypeAlias = dict[str, Json]
"""A decoded JSON object."""
