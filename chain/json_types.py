"""The types of decoded JSON."""

from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
"""A decoded JSON value. The decoders of hashed values refuse floats."""

JsonObject: TypeAlias = dict[str, Json]
"""A decoded JSON object."""
