"""The built-in architectures in torch (docs/spec/training.md, section 2).

Parameter names and shapes are those of chain.training.architectures, so theta fits both.
"""

from itertools import pairwise
from typing import assert_never

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from chain.training.architectures import KERNEL, Cnn, Mlp, Model
from chain.training.encoding import Float32Array


class MlpModule(nn.Module):
    """`mlp` version 1."""

    def __init__(self, config: Mlp) -> None:
        super().__init__()
        widths = (config.inputs, *config.hidden, config.classes)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of samples (B, ...)."""
        x = x.flatten(1)  # (B, inputs)
        for layer in self.layers[:-1]:
            x = functional.relu(layer(x))
        logits: Tensor = self.layers[-1](x)
        return logits


class CnnModule(nn.Module):
    """`cnn` version 1."""

    def __init__(self, config: Cnn) -> None:
        super().__init__()
        channels, height, width = config.image
        widths = (channels, *config.channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, KERNEL, padding=KERNEL // 2) for i, o in pairwise(widths)
        )
        stages = len(config.channels)
        self.head = nn.Linear(widths[-1] * (height >> stages) * (width >> stages), config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of samples (B, C, H, W)."""
        for convolution in self.convolutions:
            x = _pool(functional.relu(convolution(x)))  # (B, C', H // 2, W // 2)
        logits: Tensor = self.head(x.flatten(1))
        return logits


def _pool(x: Tensor) -> Tensor:
    """2x2 max pooling, (B, C, H, W) to (B, C, H // 2, W // 2).

    Written with torch.maximum: max_pool2d has no deterministic backward pass on CUDA.
    """
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    x = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
    return torch.maximum(x[..., 0:width:2], x[..., 1:width:2])


def build_model(model: Model, device: torch.device | None = None) -> nn.Module:
    """The module of `model`, on the CPU or another device, with arbitrary parameters.

    To draw parameters would take a second for the largest model, and they are replaced anyway.
    """
    with torch.device("meta"):
        module = _build_module(model)
    return module.to_empty(device=device or torch.device("cpu"))


def _build_module(model: Model) -> nn.Module:
    match model:
        case Mlp():
            return MlpModule(model)
        case Cnn():
            return CnnModule(model)
        case _:
            assert_never(model)


def ordered_parameters(module: nn.Module) -> tuple[nn.Parameter, ...]:
    """The parameters in manifest order, which is by ascending name."""
    return tuple(parameter for _, parameter in sorted(module.named_parameters()))


def load_parameters(module: nn.Module, theta: bytes) -> None:
    """Set the parameters of `module` to `theta`, little-endian float32 in manifest order."""
    set_parameters(module, np.frombuffer(theta, "<f4").astype(np.float32))


def set_parameters(module: nn.Module, values: Float32Array) -> None:
    """Set the parameters of `module` to `values`, float32[parameters] in manifest order."""
    parameters = ordered_parameters(module)
    assert sum(parameter.numel() for parameter in parameters) == values.size
    with torch.no_grad():
        for parameter, part in zip(parameters, unflatten(module, values), strict=True):
            parameter.copy_(part)


def unflatten(module: nn.Module, values: Float32Array) -> tuple[Tensor, ...]:
    """The inverse of `flatten`, for tensors with the shapes of the parameters."""
    tensors, offset = [], 0
    for parameter in ordered_parameters(module):
        end = offset + parameter.numel()
        part = torch.from_numpy(values[offset:end]).to(parameter.device)
        tensors.append(part.view_as(parameter))
        offset = end
    return tuple(tensors)


def flatten(tensors: tuple[Tensor, ...]) -> Float32Array:
    """The values of `tensors`, in order, as one float32[parameters] in main memory."""
    flat: Float32Array = torch.cat([tensor.flatten() for tensor in tensors]).cpu().numpy()
    return flat
