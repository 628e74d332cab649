"""Worked examples from well-known tutorials on convolution, computed with the layers of a block.

Their formula for sizes, ⌊(n + 2p − k)/s⌋ + 1, is checked against PyTorch in `test_shapes`.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convene.config.schema import NetworkConfig
from convene.training.network import ConvNet

Matrix = list[list[int]]

NINE: Matrix = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def before_the_activation(image: Matrix, kernels: list[Matrix], **config: Any) -> Tensor:
    """The output of a block's convolution and pooling: a map for each kernel.

    Small whole numbers are exact in float32, so comparisons need no tolerance.
    """
    pixels, weights = torch.tensor(image)[None, None], torch.tensor(kernels)[:, None]
    zero, one = np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    network = NetworkConfig(
        kernel_size=weights.shape[-1],
        filters=(len(kernels),),
        batch_norm=False,
        **{"pooling": "none"} | config,
    )
    block = ConvNet(network, (1, *pixels.shape[2:]), 2, zero, one).blocks[0]
    assert isinstance(block, nn.Sequential)
    convolution = next(layer for layer in block if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        convolution.weight.copy_(weights)
        assert convolution.bias is not None
        convolution.bias.zero_()
        maps: Tensor = block[:-1](pixels.float())
    return maps[0]


@pytest.mark.parametrize("factor", [1, 10, -1])
@pytest.mark.parametrize(
    ("padding", "expected"),
    [("valid", [[12, 16], [24, 28]]), ("same", [[12, 16, 9], [24, 28, 15], [15, 17, 9]])],
)
def test_a_filter_of_equal_weights(padding: str, expected: Matrix, factor: int) -> None:
    (found,) = before_the_activation(NINE, [[[factor] * 2] * 2], padding=padding)
    assert found.tolist() == (factor * np.array(expected)).tolist()


def test_each_filter_gives_a_map() -> None:
    kernels = [[[factor] * 2] * 2 for factor in (1, 10, -1)]
    found = before_the_activation(NINE, kernels, padding="valid")
    assert found.tolist() == [
        [[12, 16], [24, 28]],
        [[120, 160], [240, 280]],
        [[-12, -16], [-24, -28]],
    ]


@pytest.mark.parametrize(
    ("image", "pooling", "expected"),
    [
        ([[4, 3], [2, 1]], "max", [[4, 3], [2, 1]]),
        ([[12, 16], [24, 28]], "max", [[28, 28], [28, 28]]),
        # With zero padding the maximum at the edge would be 0.
        ([[-12, -16], [-24, -28]], "max", [[-12, -16], [-24, -28]]),
        # Means by the same rule, by hand: the corner is the mean of one pixel.
        ([[4, 3], [2, 1]], "average", [[2.5, 2], [1.5, 1]]),
        ([[-12, -16], [-24, -28]], "average", [[-20, -22], [-26, -28]]),
    ],
)
def test_pooling_with_stride_1_and_padding(image: Matrix, pooling: str, expected: list[list[float]]) -> None:
    config = {"pooling": pooling, "pool_size": 2, "pool_stride": 1, "pool_padding": "same"}
    (found,) = before_the_activation(image, [[[1]]], **config)
    assert found.tolist() == expected


def test_a_textbook_convolution_has_a_rotated_kernel() -> None:
    """Textbooks rotate the kernel by 180°; networks learn their kernels and do not rotate them."""
    image = [[1, 3, 2, 4], [5, 6, 1, 3], [1, 2, 0, 2], [3, 4, 3, 2]]
    kernel = [[1, 0, 3], [1, 2, 1], [0, 1, 1]]
    (found,) = before_the_activation(image, [np.rot90(kernel, 2).tolist()], padding="same")
    assert found.tolist() == [[11, 25, 32, 13], [19, 25, 24, 13], [13, 28, 25, 17], [11, 17, 14, 9]]


def test_three_blocks_reduce_28_pixels_to_4() -> None:
    """28 pixels become 14, 7 and, because windows reach past the edge, 4: 2,048 inputs of `dense`."""
    config = NetworkConfig(filters=(32, 64, 128), pool_padding="same", batch_norm=False, dense=(625,))
    statistics = np.ones((1, 1, 1), np.float32)
    network = ConvNet(config, (1, 28, 28), 10, statistics, statistics)
    assert network.blocks(torch.zeros(1, 1, 28, 28)).shape == (1, 128, 4, 4)
    first_dense = network.head[1]
    assert isinstance(first_dense, nn.Linear)
    assert first_dense.in_features == 2048
