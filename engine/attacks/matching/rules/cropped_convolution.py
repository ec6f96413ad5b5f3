"""Convolutions on maps so small that part of the kernel meets nothing but padding."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.attacks.matching.rules.stand_ins import StandIn, stand_in_for


class Crop(NamedTuple):
    """What of a kernel meets pixels, along one axis, and the padding that is left to it."""

    start: int
    stop: int
    padding: int


class CroppedConv2d(nn.Conv2d):
    """A convolution by the part of a kernel that meets pixels.

    Follows the original's weights, unless they are changed behind autograd's back, by ``.data``.

    Args:
        original: A convolution with zero padding.
        crops: The part, along height and width.
    """

    def __init__(self, original: nn.Conv2d, crops: tuple[Crop, Crop]) -> None:
        high, wide = crops
        super().__init__(
            original.in_channels,
            original.out_channels,
            (high.stop - high.start, wide.stop - wide.start),
            stride=original.stride,  # type: ignore[arg-type]  # Always two numbers by now.
            padding=(high.padding, wide.padding),
            dilation=original.dilation,  # type: ignore[arg-type]
            groups=original.groups,
            bias=False,
            device="meta",
        )
        view = original.weight.detach()[:, :, high.start : high.stop, wide.start : wide.stop]
        self.weight, self.bias = nn.Parameter(view, requires_grad=False), original.bias
        self._copied: tuple[int, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Returns maps of maps ``(N, in, high, wide)``, of the size the crops are for."""
        if self.kernel_size == input.shape[2:] == (1, 1) and self.groups == 1:
            # A convolution would add up in another order for few examples than for many.
            weight = self._dense().flatten(1)
            return functional.linear(input.flatten(1), weight, self.bias)[..., None, None]
        return functional.conv2d(
            input, self._dense(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def _dense(self) -> Tensor:
        """Returns the part of the kernel without gaps in memory; copied when weights changed."""
        version = self.weight._version
        if self._copied is None or self._copied[0] != version:
            self._copied = version, self.weight.detach().contiguous()
        return self._copied[1]


@stand_in_for(nn.Conv2d)
def cropped(module: nn.Module, shape: torch.Size | None) -> StandIn | None:
    """Returns the convolution without what meets only padding, if anything does."""
    assert isinstance(module, nn.Conv2d)
    if shape is None or module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    geometry = zip(
        shape[-2:],
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        strict=True,
    )
    high, wide = (crop_of(*sizes) for sizes in geometry)
    if (high.stop - high.start, wide.stop - wide.start) == module.kernel_size:
        return None
    every = tuple((0, size) for size in module.weight.shape[:2])
    ranges = (*every, (high.start, high.stop), (wide.start, wide.stop))
    parts = {"weight": ("weight", ranges)}
    if module.bias is not None:
        parts["bias"] = ("bias", ())
    return StandIn(CroppedConv2d(module, (high, wide)), parts)


def crop_of(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Crop:
    """Returns what of a kernel meets a map of ``size`` pixels, along one axis.

    All of it where a crop would need more padding on one side than on the other.
    """
    outputs = _outputs(size, kernel, stride, padding, dilation)
    met = [
        tap
        for tap in range(kernel)
        if any(0 <= at * stride - padding + tap * dilation < size for at in range(outputs))
    ]
    if met:
        start, stop = met[0], met[-1] + 1
        left = padding - start * dilation
        if left >= 0 and _outputs(size, stop - start, stride, left, dilation) == outputs:
            return Crop(start, stop, left)
    return Crop(0, kernel, padding)


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
