"""The file in which a trained model is published (docs/spec/training.md, section 8).

Canonical safetensors: tensors by ascending name, fixed metadata, the header padded to 8 bytes.
After the header the file is theta, byte for byte, so its holder can recompute the model root.
"""

import json
import math
from typing import Final

from chain.training.architectures import Model, parameter_shapes
from chain.training.state import FLOAT32_BYTES

ALIGNMENT: Final = 8
"""The data start at a multiple of this, as in safetensors' own writer, so that tensors that are
mapped into memory are aligned."""

METADATA: Final = {"format": "pt"}
"""The metadata that loaders of the Hugging Face hub require. They are constant, so that equal
models give equal files."""


def encode_model_file(model: Model, theta: bytes) -> bytes:
    """The safetensors file of the parameters `theta`, little-endian float32 in manifest order."""
    header: dict[str, object] = {"__metadata__": METADATA}
    offset = 0
    for name, shape in parameter_shapes(model):
        end = offset + math.prod(shape) * FLOAT32_BYTES
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    assert offset == len(theta)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text + theta
