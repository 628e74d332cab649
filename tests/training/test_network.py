"""The network of a configuration: small ones against values by hand, larger ones by their properties."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convene.config.schema import NetworkConfig
from convene.training.network import ACTIVATIONS, INITIALIZATIONS, ConvNet, parameter_count


def network(
    shape: tuple[int, int, int] = (1, 8, 8),
    classes: int = 10,
    *,
    mean: Any = 0.0,
    deviation: Any = 255.0,
    seed: int = 0,
    **config: Any,
) -> ConvNet:
    torch.manual_seed(seed)
    statistics = (np.float32(value) * np.ones((1, 1, 1), np.float32) for value in (mean, deviation))
    return ConvNet(NetworkConfig(**{"width": 4, "depth": 1} | config), shape, classes, *statistics)


def pixels(count: int = 7, shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    return torch.randint(
        0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def block_of_ones(image: list[list[int]], **config: Any) -> list[list[float]]:
    """The output of a block for an image, with a kernel of ones."""
    tensor = torch.tensor([[image]])
    shape = (1, *tensor.shape[2:])
    made = network(shape, width=1, batch_norm=False, deviation=1.0, **config)
    (convolution,) = (m for m in made.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        convolution.weight.fill_(1)
        assert convolution.bias is not None
        convolution.bias.zero_()
        result: list[list[float]] = made.blocks(tensor.float())[0, 0].tolist()
    return result


NINE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
SIXTEEN = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]


@pytest.mark.parametrize(
    ("image", "config", "expected"),
    [
        (NINE, {"kernel_size": 2, "padding": "valid", "pooling": "none"}, [[12, 16], [24, 28]]),
        # An even kernel has one more pixel of padding on the right and bottom.
        (
            NINE,
            {"kernel_size": 2, "padding": "same", "pooling": "none"},
            [[12, 16, 9], [24, 28, 15], [15, 17, 9]],
        ),
        (NINE, {"kernel_size": 3, "padding": "valid", "pooling": "none"}, [[45]]),
        (
            NINE,
            {"kernel_size": 3, "padding": "same", "pooling": "none"},
            [[12, 21, 16], [27, 45, 33], [24, 39, 28]],
        ),
        (NINE, {"kernel_size": 3, "padding": "same", "pooling": "none", "stride": 2}, [[12, 16], [24, 28]]),
        (SIXTEEN, {"kernel_size": 1, "pooling": "max"}, [[6, 8], [14, 16]]),
        (SIXTEEN, {"kernel_size": 1, "pooling": "average"}, [[3.5, 5.5], [11.5, 13.5]]),
        (SIXTEEN, {"kernel_size": 1, "pooling": "max", "pool_size": 3}, [[11]]),
    ],
)
def test_a_block_by_hand(image: list[list[int]], config: dict[str, Any], expected: list[list[float]]) -> None:
    assert block_of_ones(image, **config) == expected  # small whole numbers and halves: exact


def test_the_tables_have_the_names_that_a_configuration_allows() -> None:
    fields = NetworkConfig.model_fields
    assert tuple(ACTIVATIONS) == get_args(fields["activation"].annotation)
    assert tuple(INITIALIZATIONS) == get_args(fields["initialization"].annotation)


@pytest.mark.parametrize(
    ("activation", "at_minus_one"),
    [
        ("relu", 0.0),
        ("leaky_relu", -0.01),
        ("elu", np.expm1(-1)),
        ("gelu", -0.158655),  # −Φ(−1)
        ("silu", -1 / (1 + np.e)),
        ("tanh", np.tanh(-1)),
    ],
)
def test_each_activation_by_hand(activation: Any, at_minus_one: float) -> None:
    made = network((1, 2, 2), width=1, batch_norm=False, kernel_size=1, pooling="none", activation=activation)
    (convolution,) = (m for m in made.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        convolution.weight.fill_(-1)
        assert convolution.bias is not None
        convolution.bias.zero_()
        found = made.blocks(torch.ones(1, 1, 2, 2))
    np.testing.assert_allclose(found, at_minus_one, atol=1e-6)  # float32


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((1, 8, 8), {}),
        ((3, 8, 8), {"depth": 3}),
        ((3, 9, 13), {"depth": 2}),
        ((1, 8, 8), {"kernel_size": 4}),
        ((1, 8, 8), {"kernel_size": 4, "stride": 2}),
        ((1, 8, 8), {"kernel_size": 9}),
        ((1, 8, 8), {"stride": 2, "pooling": "none", "depth": 3}),
        ((1, 8, 8), {"padding": "valid"}),
        ((1, 8, 8), {"filters": (2, 5)}),
        ((1, 8, 8), {"dense": (16,)}),
        ((1, 8, 8), {"dense": (16, 8), "dense_dropout": 0.5}),
        ((1, 8, 8), {"dropout": 0.5}),
        ((1, 8, 8), {"batch_norm": False}),
        *(
            ((1, 8, 8), {"activation": value})
            for value in ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh")
        ),
        *(((1, 8, 8), {"pooling": value, "pool_size": 3}) for value in ("max", "average", "none")),
        *(
            ((3, 9, 13), {"pooling": value, "pool_padding": "same", "depth": 2})
            for value in ("max", "average")
        ),
        ((1, 8, 8), {"pool_size": 3, "pool_stride": 2}),
        *(
            ((1, 8, 8), {"initialization": value, "dense": (8,)})
            for value in ("default", "kaiming", "xavier", "orthogonal")
        ),
    ],
)
def test_logits_have_a_row_per_image_and_every_weight_has_a_gradient(
    shape: tuple[int, int, int], config: dict[str, Any]
) -> None:
    made = network(shape, 5, **config)
    for count in (2, 7):
        assert made(pixels(count, shape)).shape == (count, 5)
    loss = nn.functional.cross_entropy(made(pixels(7, shape)), torch.arange(7) % 5)
    loss.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(float(p.grad.abs().sum()) for p in made.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("initialization", ["kaiming", "xavier", "orthogonal"])
def test_an_initialization_sets_weights_and_zeroes_biases(initialization: Any) -> None:
    config: dict[str, Any] = {"dense": (8,), "batch_norm": False, "depth": 2}
    default, made = network(**config), network(**config, initialization=initialization)
    for (name, before), after in zip(default.named_parameters(), made.parameters(), strict=True):
        if name.endswith("bias"):
            assert not after.any(), name
        else:
            assert (before != after).float().mean() > 0.9, name
    head = made.head[1]
    assert isinstance(head, nn.Linear)
    if initialization == "orthogonal":
        weight = head.weight  # [unit, feature], with more features than units
        torch.testing.assert_close(weight @ weight.T, torch.eye(8), atol=1e-5, rtol=0)  # float32


@pytest.mark.parametrize("config", [{}, {"batch_norm": False}, {"depth": 2, "dense": (8,), "dropout": 0.5}])
def test_logits_do_not_depend_on_the_batch(config: dict[str, Any]) -> None:
    made = network(**config)
    made.train()(pixels(16))  # so that batch norm has running statistics
    made.eval()
    with torch.inference_mode():
        whole = made(pixels())
        alone = torch.cat([made(image[None]) for image in pixels()])
    # Sums have another order; float32 has 7 digits and these logits are about 1.
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


def test_pixels_are_bytes_or_floats_from_0_to_255() -> None:
    made = network().eval()
    assert torch.equal(made(pixels()), made(pixels().float()))


@pytest.mark.parametrize("per_pixel", [False, True])
def test_the_network_normalizes(per_pixel: bool) -> None:
    random = np.random.default_rng(0)
    mean = random.uniform(50, 200, (1, 8, 8) if per_pixel else (1, 1, 1)).astype(np.float32)
    made, plain = network(mean=mean, deviation=64), network(deviation=1)
    by_hand = (pixels().float() - torch.from_numpy(mean)) / 64
    assert torch.equal(made.eval()(pixels()), plain.eval()(by_hand))
    assert {"mean", "deviation"} <= set(made.state_dict())


@pytest.mark.parametrize("dropout", [{"dropout": 0.5}, {"dense_dropout": 0.5}])
def test_dropout_applies_in_training_only(dropout: dict[str, Any]) -> None:
    made = network(dense=(16,), batch_norm=False, **dropout)
    assert not torch.equal(made.train()(pixels()), made(pixels()))
    assert torch.equal(made.eval()(pixels()), made(pixels()))
    without = network(dense=(16,), batch_norm=False)
    assert torch.equal(made(pixels()), without(pixels()))


def test_the_parameter_count_by_hand() -> None:
    config: dict[str, Any] = {"kernel_size": 3, "depth": 2, "width": 4, "growth": 2.0, "dense": (5,)}
    convolutions = 4 * 3 * 9 + 8 * 4 * 9
    head = (8 * 2 * 2) * 5 + 5 + 5 * 10 + 10
    # A convolution before batch norm has no bias: batch norm has a shift and a scale.
    assert parameter_count(network((3, 8, 8), **config)) == convolutions + 2 * (4 + 8) + head
    assert parameter_count(network((3, 8, 8), **config, batch_norm=False)) == convolutions + 4 + 8 + head


def test_a_network_that_does_not_fit_is_rejected() -> None:
    with pytest.raises(
        ValueError, match="block 4: a pooling window of size 2 does not fit a feature map of size 1"
    ):
        network(depth=4)
