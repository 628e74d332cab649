"""Random changes to training images."""

import torch
from torch import Tensor, nn

from convene.config.schema import TrainingConfig


def augment(pixels: Tensor, config: TrainingConfig) -> Tensor:
    """Return images [example, channel, height, width], each shifted, rotated and mirrored by its own draw.

    Pixels that a shift or a rotation brings in from outside the image are black (0).
    """
    if config.shift:
        pixels = _shift(pixels, config.shift)
    if config.rotation:
        pixels = _rotate(pixels.float(), config.rotation)
    if config.flip:
        mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    return pixels


def _shift(pixels: Tensor, max_pixels: int) -> Tensor:
    """Crop each padded image at its own offset, in one gather from a view of all windows."""
    count, _, height, width = pixels.shape
    padded = nn.functional.pad(pixels, (max_pixels, max_pixels, max_pixels, max_pixels))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [example, channel, dy, dx, height, width]
    dy, dx = torch.randint(0, 2 * max_pixels + 1, (2, count), device=pixels.device)
    return windows[torch.arange(count, device=pixels.device), :, dy, dx]


def _rotate(pixels: Tensor, max_degrees: float) -> Tensor:
    angle = torch.deg2rad((torch.rand(len(pixels), device=pixels.device) * 2 - 1) * max_degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # affine_grid measures in half image sides, so a rotation of pixels is scaled by the ratio of the sides.
    ratio = pixels.shape[-2] / pixels.shape[-1]
    rows = [torch.stack([cos, -sin * ratio, zero], 1), torch.stack([sin / ratio, cos, zero], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    return nn.functional.grid_sample(pixels, grid, align_corners=False)
