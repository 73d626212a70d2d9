"""The built-in model architectures: their parameters and costs (docs/spec/training.md, section 2).

A model is data: a name, a version and a few bounded integers. Parameter shapes and costs follow
from them in integer arithmetic, before memory is allocated. A test compares them with torch.
"""

import math
from dataclasses import dataclass
from typing import Final, assert_never

MAX_LAYERS: Final = 16
"""More than any multilayer perceptron or 3x3 network that is trained without skip connections."""

MAX_WIDTH: Final = 2**16
"""The largest layer width, image side and number of classes; products of them stay below 2**63."""

MAX_PARAMETERS: Final = 2**26
"""67 million: an aggregating validator then needs about 1.5 GB (int64 sums and AdamW's state)."""

MAX_FORWARD_FLOPS: Final = 2**34
"""The limit of the operations of one sample's forward pass. A sample is the least that a worker
computes at a time, and while it does, promised work of other tasks waits. With the backward pass
these take 1.3 s on a core of 40 GFLOP/s."""

MAX_ACTIVATIONS: Final = 2**25
"""The limit of the values of one sample that layers take and give. Each took up to 65 ns, with the
backward pass, however few operations belong to it: 2.2 s for so many."""

KERNEL: Final = 3
"""The height and width of every convolution kernel of `cnn` version 1."""

Shape = tuple[int, ...]
"""Extents of an array, outermost first."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """Version 1 of `mlp`: linear layers with ReLU between them.

    Attributes:
        inputs: The number of features of a sample, flattened.
        hidden: The width of each hidden layer; empty for a linear classifier.
        classes: The number of outputs.
    """

    inputs: int
    hidden: tuple[int, ...]
    classes: int


@dataclass(frozen=True, slots=True)
class Cnn:
    """Version 1 of `cnn`: stages of 3x3 convolution, ReLU and 2x2 max pooling, then one linear.

    Attributes:
        image: Channels, height and width of a sample.
        channels: Output channels of each stage; every stage halves height and width (floor).
        classes: The number of outputs.
    """

    image: tuple[int, int, int]
    channels: tuple[int, ...]
    classes: int


Model = Mlp | Cnn
"""Every architecture that a task can name."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer that has parameters.

    Attributes:
        name: Prefix of its parameters, as in torch's `state_dict`.
        weight: Shape of the weight; its first extent is the length of the bias.
        positions: How many times the weight is applied to a sample.
    """

    name: str
    weight: Shape
    positions: int


def compute_layers(model: Model) -> tuple[Layer, ...]:
    """The layers of `model` in the order in which a sample passes them."""
    match model:
        case Mlp(inputs, hidden, classes):
            widths = (inputs, *hidden, classes)
            return tuple(
                Layer(f"layers.{i}", (widths[i + 1], widths[i]), 1) for i in range(len(widths) - 1)
            )
        case Cnn((channels, height, width), stages, classes):
            layers = []
            for i, outputs in enumerate(stages):
                shape = (outputs, channels, KERNEL, KERNEL)
                layers.append(Layer(f"convolutions.{i}", shape, height * width))
                channels, height, width = outputs, height // 2, width // 2
            head = Layer("head", (classes, channels * height * width), 1)
            return (*layers, head)
        case _:
            assert_never(model)


def parameter_shapes(model: Model) -> tuple[tuple[str, Shape], ...]:
    """The name and shape of every parameter, by ascending name: the order of theta."""
    shapes = [
        shape
        for layer in compute_layers(model)
        for shape in (
            (f"{layer.name}.bias", layer.weight[:1]),
            (f"{layer.name}.weight", layer.weight),
        )
    ]
    return tuple(sorted(shapes))


def count_parameters(model: Model) -> int:
    """The number of float32 values in theta."""
    return sum(math.prod(shape) for _, shape in parameter_shapes(model))


def count_forward_flops(model: Model) -> int:
    """The operations of one sample's forward pass; a multiply-add counts as two, biases as none."""
    return sum(2 * layer.positions * math.prod(layer.weight) for layer in compute_layers(model))


def count_activations(model: Model) -> int:
    """The values of one sample: its features, and what each layer gives."""
    outputs = sum(layer.positions * layer.weight[0] for layer in compute_layers(model))
    return math.prod(input_shape(model)) + outputs


def input_shape(model: Model) -> Shape:
    """The shape of one sample as the model's input."""
    match model:
        case Mlp():
            return (model.inputs,)
        case Cnn():
            return model.image
        case _:
            assert_never(model)
