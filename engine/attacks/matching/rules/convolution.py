"""Convolutions: outer products of output gradients and patches, over output positions."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.attacks.matching.contributions import Sums, dot, sums_of
from engine.attacks.matching.moments import Target
from engine.attacks.matching.products import MOVE, SMALL_PRODUCT
from engine.attacks.matching.rules.base import ProductRule, by_candidate, rule_for
from engine.attacks.matching.rules.cropped_convolution import CroppedConv2d

# On a CPU, a product with the patches is faster than torch's own gradient while a candidate's
# patches, of so many entries, stay in the cache, if a row of a patch is a run of memory of at least
# this.
CACHED_PATCHES, SHORTEST_RUN = 2**18, 16
# Entries of a weight from which torch is faster called once a candidate than with a group of
# channels for every candidate.
LARGE_WEIGHT = 2**16


class ConvolutionFactors:
    """Factors of a weight ``(out, in / groups, kh, kw)``; a Conv1d is a Conv2d of height 1.

    See :class:`engine.attacks.matching.products.Factors`. The patches' inner products are sums of
    shifted blocks of the *pixels'* inner products: for a kernel of ``kh * kw`` that many times
    cheaper than from the patches themselves, unless a stride leaves out most patches.
    """

    def __init__(
        self, layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> None:
        flat = isinstance(layer, nn.Conv1d)
        if flat:
            inputs, deltas = inputs.unsqueeze(2), deltas.unsqueeze(2)
        before = (0,) * flat
        self._kernel = (1,) * flat + tuple(layer.kernel_size)
        self._stride = (1,) * flat + tuple(layer.stride)
        self._dilation = (1,) * flat + tuple(layer.dilation)
        self._maps, self._padding = _pad(layer, inputs, before)
        self._shape = layer.weight.shape
        self._weight = layer.weight.unsqueeze(2) if flat else layer.weight
        self._candidates, self.groups = candidates, layer.groups
        self._out = tuple(deltas.shape[2:])
        self.deltas = _join_examples(deltas.flatten(2), candidates)
        self._deltas = deltas
        channels = inputs.shape[1] // self.groups
        self.columns = channels * prod(self._kernel)
        patch_entries = self.deltas.shape[2] * self.groups * self.columns
        self._by_torch = self._is_faster_by_torch(patch_entries)
        self.patch_entries = 0 if self._by_torch else patch_entries
        pixels = self._maps[0, 0].numel() * (len(inputs) // candidates)
        by_pixels = self.groups * pixels**2 * (channels + MOVE * sum(self._kernel))
        by_patches = patch_entries * (self.deltas.shape[2] * SMALL_PRODUCT + MOVE)
        self._gram_by_patches = by_patches < by_pixels
        self.input_gram_cost: float = min(by_patches, by_pixels)

    def gradients(self) -> Tensor:
        if self._by_torch:
            return self._gradients_by_torch(slice(None))
        by_patches = self._gradients_by_patches(slice(None))
        channels = self._weight.shape[1]
        by_channels = by_patches.unflatten(2, (*self._kernel, channels)).movedim(-1, 2)
        return by_channels.reshape(-1, *self._shape)

    def explicit(self, candidates: slice, target: Target) -> Sums:
        if self._by_torch:
            return sums_of(self._gradients_by_torch(candidates), target)
        return sums_of(self._gradients_by_patches(candidates), self.by_inputs(target))

    def _is_faster_by_torch(self, patch_entries: int) -> bool:
        """Tells whether torch's own gradient is faster than a product with the patches."""
        if self._maps.device.type != "cpu":
            return False
        run = self._maps.shape[1] // self.groups * self._kernel[1]
        too_large = patch_entries > CACHED_PATCHES
        return run < SHORTEST_RUN or prod(self._kernel) == 1 or too_large

    def _gradients_by_patches(self, candidates: slice) -> Tensor:
        """Returns gradients ``(C, out, columns)``, the columns in the patches' order."""
        deltas = self.deltas[candidates].unflatten(1, (self.groups, -1))
        maps = by_candidate(self._maps, self._candidates)[candidates]
        return (deltas @ self._patches(maps)).flatten(1, 2)

    def _gradients_by_torch(self, candidates: slice) -> Tensor:
        maps = by_candidate(self._maps, self._candidates)[candidates]
        deltas = by_candidate(self._deltas, self._candidates)[candidates]
        if self._weight.numel() > LARGE_WEIGHT:
            each = [self._backward(*pair, 1) for pair in zip(maps, deltas, strict=True)]
            return torch.stack(each).view(-1, *self._shape)
        # One convolution with a group of channels for every candidate.
        return self._backward(
            maps.transpose(0, 1).flatten(1, 2), deltas.transpose(0, 1).flatten(1, 2), len(maps)
        ).view(-1, *self._shape)

    def _backward(self, maps: Tensor, deltas: Tensor, candidates: int) -> Tensor:
        """Returns the weight's gradient by torch, summed over the first axis."""
        weight = self._weight.expand(candidates, *self._weight.shape).flatten(0, 1)
        found: Tensor = torch.ops.aten.convolution_backward(
            deltas,
            maps,
            weight,
            None,
            self._stride,
            self._padding,
            self._dilation,
            False,
            [0, 0],
            self.groups * candidates,
            [False, True, False],
        )[1]
        return found

    def inputs(self) -> Tensor:
        return self._all_patches()[:, 0]

    def by_inputs(self, target: Target) -> Target:
        return target.derived("channels last", lambda tensor: tensor.movedim(1, -1))

    def _all_patches(self) -> Tensor:
        return self._patches(by_candidate(self._maps, self._candidates))

    def _patches(self, maps: Tensor) -> Tensor:
        """Returns the patches ``(C, groups, P, columns)`` of maps ``(C, B, in, high, wide)``.

        A patch has its channels last: so its rows are runs of memory, quickly copied.
        """
        padded = _pad_channels_last(maps.flatten(0, 1), self._padding)
        example, *steps, _ = padded.stride()
        channels = padded.shape[3] // self.groups
        # A view of every patch, copied once.
        patches = padded.as_strided(
            (len(padded), self.groups, *self._out, *self._kernel, channels),
            (
                example,
                channels,
                *(step * stride for step, stride in zip(steps, self._stride, strict=True)),
                *(step * apart for step, apart in zip(steps, self._dilation, strict=True)),
                1,
            ),
        ).reshape(len(padded), self.groups, prod(self._out), self.columns)
        return by_candidate(patches, len(maps)).transpose(1, 2).flatten(2, 3)

    def input_gram(self) -> Tensor:
        if self._gram_by_patches:
            patches = self._all_patches()
            return patches @ patches.mT
        return self._input_gram_by_pixels()

    def _input_gram_by_pixels(self) -> Tensor:
        examples = len(self._maps) // self._candidates
        size = self._maps.shape[2:]
        pixels = _join_examples(self._maps.flatten(2), self._candidates)
        pixels = pixels.unflatten(1, (self.groups, -1))
        gram = (pixels.mT @ pixels).view(-1, examples, *size, examples, *size)
        high, wide = self._padding
        gram = functional.pad(gram, (wide, wide, high, high, 0, 0, wide, wide, high, high))
        # Shifts along the width do not depend on those along the height: first one, then the other.
        for axis in (1, 0):
            gram = self._sum_shifted(gram, axis)
        positions = self.deltas.shape[2]
        return gram.reshape(self._candidates, self.groups, positions, positions)

    def _sum_shifted(self, gram: Tensor, axis: int) -> Tensor:
        """Sums blocks of ``(n, B, high, wide, B, high, wide)`` shifted along one image axis."""
        dilation, stride = self._dilation[axis], self._stride[axis]
        length = stride * (self._out[axis] - 1) + 1
        blocks = [
            gram[_at(2 + axis, shift)][_at(5 + axis, shift)]
            for shift in (
                slice(offset * dilation, offset * dilation + length, stride)
                for offset in range(self._kernel[axis])
            )
        ]
        return blocks[0] if len(blocks) == 1 else sum(blocks[1:], start=blocks[0])

    def inner(self, values: Tensor) -> Tensor:
        if values.ndim == 3:
            values = values.unsqueeze(2)
        outputs = functional.conv2d(
            self._maps,
            values,
            stride=self._stride,
            padding=self._padding,
            dilation=self._dilation,
            groups=self.groups,
        )
        return dot(self._deltas, outputs).view(self._candidates, -1).sum(1)


def _pad_channels_last(maps: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Returns maps ``(n, high, wide, in)`` of maps ``(n, in, high, wide)``, with zeros around."""
    (high, wide), (rows, columns) = padding, maps.shape[2:]
    padded = maps.new_zeros(len(maps), rows + 2 * high, columns + 2 * wide, maps.shape[1])
    padded[:, high : high + rows, wide : wide + columns] = maps.permute(0, 2, 3, 1)
    return padded


def _at(axis: int, index: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (index,)


def _pad(
    layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, before: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """Returns the maps and the zero padding that is left to do on both sides of them."""
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return inputs, before + tuple(layer.padding)
    # torch's own list of amounts per side, which covers padding="same" and the other modes.
    amounts = list(layer._reversed_padding_repeated_twice)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if before:
        return functional.pad(inputs.squeeze(2), amounts, mode=mode).unsqueeze(2), (0, 0)
    return functional.pad(inputs, amounts, mode=mode), (0, 0)


def _join_examples(tensor: Tensor, candidates: int) -> Tensor:
    """Returns ``(C, n, B * P)`` of a tensor ``(C * B, n, P)``."""
    if len(tensor) == candidates:
        return tensor
    return by_candidate(tensor, candidates).transpose(1, 2).flatten(2)


@rule_for(nn.Conv1d, nn.Conv2d, CroppedConv2d)
class ConvolutionRule(ProductRule):
    """Positions are those of the output, and a candidate's examples."""

    def factors(
        self, layer: nn.Module, inputs: Tensor, deltas: Tensor, candidates: int
    ) -> ConvolutionFactors:
        assert isinstance(layer, nn.Conv1d | nn.Conv2d)
        return ConvolutionFactors(layer, inputs, deltas, candidates)
