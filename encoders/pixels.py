"""What every visual tokenizer asks of pixels before it runs."""

from torch import Tensor


def grid_of(tokenizer: object, pixels: Tensor, stride: int, channels: int = 3) -> tuple[int, int]:
    """(rows, columns) of the visual tokens of [B, channels, H, W]; a ValueError where the stride divides no side.

    Args:
        tokenizer: named in the message.
        pixels: of images of one size.
        stride: side in pixels of the square that a token stands for.
        channels: of the pixels.
    """
    name = type(tokenizer).__name__
    if pixels.dim() != 4 or pixels.shape[1] != channels:
        raise ValueError(f"{name} reads pixels [B, {channels}, H, W], got {list(pixels.shape)}")
    height, width = pixels.shape[2:]
    if min(height, width) < stride or height % stride or width % stride:
        raise ValueError(
            f"{name} reads images whose sides are divisible by its stride {stride}, got {height} x {width} pixels: "
            "pad or resize the images"
        )
    return height // stride, width // stride
