"""Check a downloaded model in plain torch, without a line of this project.

    python tests/tools/check_model.py MODEL.safetensors
    python tests/tools/check_model.py MODEL.safetensors --spec SPEC.json --shard SHARD.npz ...

Loads the file, rebuilds the network from the shapes of its tensors, and evaluates it on the
held-out rows: of the digits of examples/digits.toml by default, else of the given specification
(canonical JSON) and shards. Prints {"correct", "rows", "accuracy", "loss_millinats"}.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional


def logits_of(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The logits of a CNN (ReLU, 2x2 max pooling) or an MLP (ReLU between layers)."""
    i = 0
    while f"convolutions.{i}.weight" in tensors:
        weight, bias = tensors[f"convolutions.{i}.weight"], tensors[f"convolutions.{i}.bias"]
        x = functional.max_pool2d(functional.conv2d(x, weight, bias, padding=1).relu(), 2)
        i += 1
    x = x.flatten(1)
    i = 0
    while f"layers.{i}.weight" in tensors:
        x = functional.linear(x.relu() if i else x, tensors[f"layers.{i}.weight"],
                              tensors[f"layers.{i}.bias"])  # fmt: skip
        i += 1
    if "head.weight" in tensors:
        x = functional.linear(x, tensors["head.weight"], tensors["head.bias"])
    return x


def held_out_digits(seed: str = "digits-1", rows: int = 360) -> tuple[np.ndarray, np.ndarray]:
    """The last rows in the order of SHA-256(seed, number), with pixels p as (p - 5) / 8."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = sorted(
        range(len(digits.target)),
        key=lambda row: hashlib.sha256(seed.encode() + row.to_bytes(8, "big")).digest(),
    )[-rows:]
    return ((digits.images - 5) / 8)[order][:, None].astype(np.float32), digits.target[order]


def held_out_rows(spec_file: Path, shards: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    spec = json.loads(spec_file.read_bytes())
    names = spec["data"]["features"]["name"], spec["data"]["labels"]["name"]
    files = [np.load(shard, allow_pickle=False) for shard in shards]
    x, y = (np.concatenate([file[name] for file in files]) for name in names)
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 255
    first = spec["held_out"]["first_row"]
    part = slice(first, first + spec["held_out"]["rows"])
    return x[part].astype(np.float32), y[part].astype(np.int64)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--shard", type=Path, action="append", default=[])
    options = parser.parse_args()
    rows = held_out_rows(options.spec, options.shard) if options.spec else held_out_digits()
    x, y = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
    with torch.no_grad():
        logits = logits_of(load_file(options.model), x)
    correct = int((logits.argmax(1) == y).sum())
    loss = round(1000 * functional.cross_entropy(logits, y).item())
    report = {
        "correct": correct,
        "rows": len(y),
        "accuracy": correct / len(y),
        "loss_millinats": loss,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
