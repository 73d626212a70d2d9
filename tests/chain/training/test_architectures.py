from chain.training.architectures import (
    Cnn,
    Mlp,
    count_activations,
    count_forward_flops,
    count_parameters,
    parameter_shapes,
)


def test_cnn_parameters_are_laid_out_by_ascending_name() -> None:
    model = Cnn(image=(1, 8, 8), channels=(16, 32), classes=10)
    assert parameter_shapes(model) == (
        ("convolutions.0.bias", (16,)),
        ("convolutions.0.weight", (16, 1, 3, 3)),
        ("convolutions.1.bias", (32,)),
        ("convolutions.1.weight", (32, 16, 3, 3)),
        ("head.bias", (10,)),
        ("head.weight", (10, 128)),
    )
    assert count_parameters(model) == 16 + 144 + 32 + 4608 + 10 + 1280
    assert count_forward_flops(model) == 2 * (144 * 64 + 4608 * 16 + 1280)
    assert count_activations(model) == 64 + 16 * 64 + 32 * 16 + 10


def test_mlp_without_hidden_layers_is_a_linear_classifier() -> None:
    model = Mlp(inputs=64, hidden=(), classes=10)
    assert parameter_shapes(model) == (("layers.0.bias", (10,)), ("layers.0.weight", (10, 64)))
    assert count_forward_flops(model) == 2 * 640
    assert count_activations(model) == 64 + 10


def test_eleven_layers_sort_by_name_and_not_by_number() -> None:
    names = [name for name, _ in parameter_shapes(Mlp(inputs=2, hidden=(2,) * 10, classes=2))]
    assert names == sorted(names)
    assert names.index("layers.10.bias") < names.index("layers.2.bias")
