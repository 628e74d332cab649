"""Computed sizes against PyTorch's."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from convene.config.schema import NetworkConfig
from convene.training import shapes
from convene.training.network import ConvNet, parameter_count
from convene.training.shapes import filters, output_size, shape_error

sizes = st.integers(1, 12)


@settings(deadline=None)
@given(sizes, st.integers(1, 7), st.integers(0, 4), st.integers(1, 5))
def test_the_formula_agrees_with_pytorch_convolutions(
    size: int, kernel: int, padding: int, stride: int
) -> None:
    image, weight = torch.zeros(1, 1, size, size), torch.zeros(1, 1, kernel, kernel)
    expected = output_size(size, kernel, 2 * padding, stride)
    if expected < 1:
        with pytest.raises(RuntimeError):
            functional.conv2d(image, weight, stride=stride, padding=padding)
    else:
        assert functional.conv2d(image, weight, stride=stride, padding=padding).shape[2:] == (expected,) * 2


@settings(deadline=None)
@given(st.data(), sizes, st.integers(1, 7), st.integers(1, 5))
def test_the_formula_agrees_with_pytorch_pooling(
    data: st.DataObject, size: int, kernel: int, stride: int
) -> None:
    padding = data.draw(st.integers(0, kernel // 2), label="padding")  # PyTorch allows no more
    image = torch.zeros(1, 1, size, size)
    expected = output_size(size, kernel, 2 * padding, stride)
    if expected < 1:
        with pytest.raises(RuntimeError):
            functional.max_pool2d(image, kernel, stride, padding)
    else:
        assert functional.max_pool2d(image, kernel, stride, padding).shape[2:] == (expected,) * 2


networks = st.builds(
    NetworkConfig,
    kernel_size=st.integers(1, 6),
    depth=st.integers(1, 5),
    width=st.integers(1, 3),
    growth=st.sampled_from([0.5, 1.0, 1.5]),
    filters=st.one_of(st.just(()), st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
    pooling=st.sampled_from(["max", "average", "none"]),
    pool_size=st.integers(2, 4),
    pool_stride=st.one_of(st.none(), st.integers(1, 5)),
    pool_padding=st.sampled_from(["valid", "same"]),
    batch_norm=st.booleans(),
    dense=st.lists(st.integers(1, 5), max_size=2).map(tuple),
)
image_shapes = st.tuples(st.sampled_from([1, 3]), sizes, sizes)


def layers(config: NetworkConfig, image: Tensor) -> Tensor:
    """The image after the blocks' convolutions and poolings by PyTorch; RuntimeError if one does not fit."""
    kernel, step = config.kernel_size, config.stride
    for _ in filters(config):
        if config.padding == "same":
            before = (kernel - 1) // 2
            image = functional.pad(image, (before, kernel - 1 - before) * 2)
        image = functional.conv2d(image, torch.zeros(1, 1, kernel, kernel), stride=step)
        if config.pooling != "none":
            size = config.pool_size
            if config.pool_padding == "same":
                before = (size - 1) // 2
                image = functional.pad(image, (before, size - 1 - before) * 2)
            image = functional.avg_pool2d(image, size, config.pool_stride or size)
    return image


@settings(deadline=None, max_examples=200)
@given(networks, image_shapes)
def test_a_network_fits_if_and_only_if_its_layers_run(
    config: NetworkConfig, shape: tuple[int, int, int]
) -> None:
    image = torch.zeros(1, 1, *shape[1:])
    mean, deviation = torch.zeros(1, 1, 1).numpy(), torch.ones(1, 1, 1).numpy()
    if problem := shape_error(config, shape):
        with pytest.raises(RuntimeError):
            layers(config, image)
        with pytest.raises(ValueError, match="does not fit") as raised:
            ConvNet(config, shape, 2, mean, deviation)
        assert str(raised.value) == problem
        return
    height, width = layers(config, image).shape[2:]
    network = ConvNet(config, shape, 2, mean, deviation)
    pixels = torch.zeros(2, *shape)
    assert network.blocks(pixels).shape == (2, filters(config)[-1], height, width)
    assert network.train()(pixels).shape == network.eval()(pixels).shape == (2, 2)


def kernel_error(block: int, size: int, map_size: int) -> str:
    return f"block {block}: a kernel of size {size} does not fit a feature map of size {map_size}"


def pooling_error(block: int, size: int, map_size: int) -> str:
    return f"block {block}: a pooling window of size {size} does not fit a feature map of size {map_size}"


@pytest.mark.parametrize(
    ("config", "shape", "expected"),
    [
        ({"depth": 3}, (1, 8, 8), None),
        ({"depth": 4}, (1, 8, 8), pooling_error(4, 2, 1)),
        ({"depth": 4}, (3, 16, 16), None),
        ({"depth": 3}, (1, 28, 4), pooling_error(3, 2, 1)),
        ({"depth": 3}, (1, 4, 28), pooling_error(3, 2, 1)),
        ({"depth": 1, "kernel_size": 5, "padding": "valid"}, (1, 4, 4), kernel_error(1, 5, 4)),
        ({"depth": 1, "kernel_size": 31}, (1, 1, 1), pooling_error(1, 2, 1)),
        ({"depth": 16, "kernel_size": 31, "pooling": "none"}, (1, 1, 1), None),
        ({"depth": 4, "padding": "valid", "pooling": "none"}, (1, 8, 8), kernel_error(4, 3, 2)),
        ({"depth": 3, "padding": "valid", "pooling": "none"}, (1, 8, 8), None),
        # A stride of 2 halves the size and rounds up, so that one pixel always remains.
        ({"depth": 16, "stride": 2, "pooling": "none"}, (1, 8, 8), None),
        ({"depth": 1, "pool_size": 8}, (1, 8, 8), None),
        ({"depth": 2, "pool_size": 8}, (1, 8, 8), pooling_error(2, 8, 1)),
        # Overlapping windows shrink a map less, and padded windows round up.
        ({"depth": 7, "pool_stride": 1}, (1, 8, 8), None),
        ({"depth": 8, "pool_stride": 1}, (1, 8, 8), pooling_error(8, 2, 1)),
        ({"depth": 16, "pool_padding": "same"}, (1, 8, 8), None),
        # The length of `filters` is the number of blocks.
        ({"depth": 1, "filters": (4, 4, 4, 4)}, (1, 8, 8), pooling_error(4, 2, 1)),
        ({"depth": 16, "filters": (4,)}, (1, 8, 8), None),
    ],
)
def test_a_shape_error_names_the_block_and_the_sizes(
    config: dict[str, Any], shape: tuple[int, int, int], expected: str | None
) -> None:
    assert shape_error(NetworkConfig(**config), shape) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"width": 16, "depth": 3, "growth": 2.0}, (16, 32, 64)),
        ({"width": 5, "depth": 2, "growth": 1.5}, (5, 8)),
        ({"width": 2, "depth": 4, "growth": 0.25}, (2, 1, 1, 1)),
        ({"filters": (5, 3), "width": 16, "depth": 3}, (5, 3)),
    ],
)
def test_filters_are_listed_or_grow(config: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert filters(NetworkConfig(**config)) == expected


def test_a_shape_error_depends_on_no_other_field() -> None:
    """The check of a search space relies on this list of fields."""
    decisive = set(shapes.FIELDS)
    changed: dict[str, Any] = {
        "width": 3,
        "growth": 1.0,
        "batch_norm": False,
        "activation": "tanh",
        "dropout": 0.5,
        "dense": (4,),
        "dense_dropout": 0.5,
        "initialization": "xavier",
    }
    assert decisive | set(changed) == set(NetworkConfig.model_fields)
    for depth in (3, 4):
        assert shape_error(NetworkConfig(depth=depth), (1, 8, 8)) == shape_error(
            NetworkConfig(depth=depth, **changed), (1, 8, 8)
        )


@settings(deadline=None, max_examples=200)
@given(
    networks, st.tuples(st.sampled_from([1, 3]), st.integers(4, 40), st.integers(4, 40)), st.integers(2, 5)
)
def test_the_parameter_count_agrees_with_pytorch(
    config: NetworkConfig, shape: tuple[int, int, int], classes: int
) -> None:
    assume(shape_error(config, shape) is None)
    mean, deviation = torch.zeros(1, 1, 1).numpy(), torch.ones(1, 1, 1).numpy()
    network = ConvNet(config, shape, classes, mean, deviation)
    assert shapes.parameter_count(config, shape, classes) == parameter_count(network)
