import pytest
import torch
from safetensors.torch import load, save
from torch.utils.flop_counter import FlopCounterMode

from chain.training.architectures import (
    Cnn,
    Mlp,
    Model,
    count_activations,
    count_forward_flops,
    count_parameters,
    input_shape,
    parameter_shapes,
)
from chain.training.model_file import METADATA, encode_model_file
from miner.model import build_model, flatten, load_parameters, ordered_parameters
from node.client.task_file import build_initial_weights

MODELS: tuple[Model, ...] = (
    Mlp(inputs=64, hidden=(64, 32), classes=10),
    Mlp(inputs=5, hidden=(), classes=2),
    Mlp(inputs=3, hidden=(4,) * 12, classes=3),
    Cnn(image=(1, 8, 8), channels=(16, 32), classes=10),
    Cnn(image=(3, 13, 9), channels=(4, 5, 6), classes=7),
)


@pytest.mark.parametrize("model", MODELS)
def test_parameter_shapes_in_torch_are_those_of_the_formulas(model: Model) -> None:
    module = build_model(model)
    shapes = tuple(sorted((name, tuple(p.shape)) for name, p in module.named_parameters()))
    assert shapes == parameter_shapes(model)
    given: list[int] = []
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _taken, output: given.append(output.numel()))
    features = torch.zeros(1, *input_shape(model))
    with FlopCounterMode(display=False) as counter:
        logits = module(features)
    assert counter.get_total_flops() == count_forward_flops(model)
    assert features.numel() + sum(given) == count_activations(model)
    assert logits.shape == (1, model.classes)


@pytest.mark.parametrize("model", MODELS)
def test_loaded_parameters_come_back_in_manifest_order(model: Model) -> None:
    theta = build_initial_weights(model, "seed")
    assert len(theta) == 4 * count_parameters(model)
    module = build_model(model)
    load_parameters(module, theta)
    assert flatten(tuple(p.detach() for p in ordered_parameters(module))).tobytes() == theta


@pytest.mark.parametrize("model", MODELS)
def test_model_file_equals_that_of_safetensors(model: Model) -> None:
    theta = build_initial_weights(model, "seed")
    file = encode_model_file(model, theta)
    assert save(load(file), metadata=METADATA) == file
    module = build_model(model)
    module.load_state_dict(load(file))
    assert flatten(tuple(p.detach() for p in ordered_parameters(module))).tobytes() == theta


def test_pooling_equals_max_pooling_of_torch() -> None:
    model = Cnn(image=(2, 7, 6), channels=(3,), classes=2)
    module = build_model(model)
    load_parameters(module, build_initial_weights(model, "pooling"))
    x = torch.linspace(-1, 1, 84).reshape(1, 2, 7, 6).sin()
    pooled = torch.nn.functional.max_pool2d(module.convolutions[0](x).relu(), 2)
    assert torch.equal(module(x), module.head(pooled.flatten(1)))


def test_weights_stay_within_he_bounds_and_biases_are_zero() -> None:
    tensors = load(encode_model_file(MODELS[3], build_initial_weights(MODELS[3], "seed")))
    weight = tensors["convolutions.1.weight"]
    assert 0.9 < weight.abs().max() / (6 / 144) ** 0.5 <= 1
    assert abs(weight.std() / (2 / 144) ** 0.5 - 1) < 0.05
    assert not tensors["convolutions.1.bias"].any()
