import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from engine.attacks.matching import Kernels, Observation
from engine.attacks.matching.rules.batch_norm import ChannelAffine, as_affine
from engine.attacks.matching.rules.cropped_convolution import (
    CroppedConv2d,
    crop_of,
    cropped,
)
from engine.attacks.matching.rules.stand_ins import STAND_INS
from engine.federation import compute_update
from tests.attacks.matching import oracle
from tests.attacks.matching.oracle import assert_close, settled
from tests.conftest import build, seeded

CLASSES = 4
NORMS = {
    "1d, features": (lambda: nn.BatchNorm1d(3, eps=0.1), (3,)),
    "1d": (lambda: nn.BatchNorm1d(3), (3, 5)),
    "2d": (lambda: nn.BatchNorm2d(3), (3, 2, 4)),
    "3d": (lambda: nn.BatchNorm3d(3), (3, 2, 1, 2)),
}
# Convolutions, their map's size, and how much of the kernel meets pixels.
SMALL_MAPS = {
    "one pixel": (lambda: nn.Conv2d(4, 3, 3, padding=1), (1, 1), (1, 1)),
    "a pixel high": (lambda: nn.Conv2d(4, 3, 5, padding=2), (1, 4), (1, 5)),
    "stride over two pixels": (
        lambda: nn.Conv2d(4, 3, 3, padding=1, stride=2, bias=False),
        (2, 2),
        (2, 2),
    ),
    "dilation": (lambda: nn.Conv2d(4, 3, 3, padding=2, dilation=2), (2, 3), (1, 3)),
    "groups": (lambda: nn.Conv2d(4, 2, 3, padding=1, groups=2), (1, 1), (1, 1)),
    "wide padding": (lambda: nn.Conv2d(4, 3, 7, padding=3), (2, 2), (3, 3)),
}


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class SmallMaps(nn.Module):
    """A network that ends on maps of one pixel; two of its layers share a weight if ``tied``."""

    def __init__(self, *, tied=False, twice=False, width=4):
        super().__init__()
        self.twice = twice
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)
        if tied:
            self.last.weight = self.down.weight
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, images):
        maps = self.down(self.norm(self.stem(images)).relu_())
        maps = self.last(maps.tanh())
        if self.twice:
            maps = self.last(maps.sin())
        return self.readout(maps.flatten(1))


def kernels_of(**settings):
    model = settled(build(lambda: SmallMaps(**settings), 1).double())
    return model, Kernels(model, (1, 4, 4))


def types_in(kernels):
    return {type(layer) for layer in kernels._layers}


@pytest.mark.parametrize("name", NORMS)
def test_an_affine_map_computes_what_batch_norm_does(name):
    make, shape = NORMS[name]
    layer = settled(make().double()).eval()
    inputs = numbers(5, *shape)

    stand_in = as_affine(layer, None)

    assert isinstance(stand_in.module, ChannelAffine)
    assert_close(stand_in.module(inputs), layer(inputs))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, bias=False),
        nn.BatchNorm2d(3, track_running_stats=False),
    ],
)
def test_a_batch_norm_without_statistics_or_factors_stays(layer):
    assert as_affine(layer, None) is None


@pytest.mark.parametrize("name", SMALL_MAPS)
def test_a_cropped_convolution_computes_what_the_whole_one_does(name):
    make, size, kernel = SMALL_MAPS[name]
    layer = build(make, 1).double()
    inputs = numbers(3, 4, *size)

    stand_in = cropped(layer, inputs.shape)

    assert isinstance(stand_in.module, CroppedConv2d)
    assert stand_in.module.kernel_size == kernel
    assert_close(stand_in.module(inputs), layer(inputs))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 3, 3, padding=1), (2, 4, 2, 2)),
        (nn.Conv2d(4, 3, 3, padding=1), None),
        (nn.Conv2d(4, 3, 3, padding="same"), (2, 4, 1, 1)),
        (nn.Conv2d(4, 3, 3, padding=1, padding_mode="replicate"), (2, 4, 1, 1)),
    ],
)
def test_a_convolution_that_needs_its_whole_kernel_stays(layer, shape):
    assert cropped(layer, None if shape is None else torch.Size(shape)) is None


@given(
    size=st.integers(1, 5),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
@example(size=5, kernel=3, stride=3, padding=1, dilation=2)  # Would need a negative padding.
def test_a_crop_computes_the_same_at_every_geometry(size, kernel, stride, padding, dilation):
    if size + 2 * padding < dilation * (kernel - 1) + 1:
        return
    inputs, weight = numbers(1, 1, size), numbers(1, 1, kernel, seed=2)

    crop = crop_of(size, kernel, stride, padding, dilation)

    part = weight[:, :, crop.start : crop.stop]
    found = nn.functional.conv1d(inputs, part, None, stride, crop.padding, dilation)
    whole = nn.functional.conv1d(inputs, weight, None, stride, padding, dilation)
    assert found.shape == whole.shape
    torch.testing.assert_close(found, whole)
    assert 0 <= crop.start < crop.stop <= kernel


def test_what_stands_for_a_layer_follows_its_weights():
    layer = build(lambda: nn.Conv2d(4, 3, 3, padding=1), 1).double()
    stand_in = cropped(layer, torch.Size((2, 4, 1, 1)))
    inputs = numbers(2, 4, 1, 1)
    stand_in.module(inputs)

    with torch.no_grad():
        layer.weight.mul_(-2)

    assert_close(stand_in.module(inputs), layer(inputs))


def test_kernels_crop_what_is_used_once_and_by_one_layer():
    _, kernels = kernels_of()

    assert {CroppedConv2d, ChannelAffine} <= types_in(kernels)


@pytest.mark.parametrize("settings", [{"tied": True}, {"twice": True}])
def test_kernels_leave_what_is_shared_or_used_again_whole(settings):
    _, kernels = kernels_of(**settings)

    crops = [layer for layer in kernels._layers if isinstance(layer, CroppedConv2d)]
    assert len(crops) == (0 if "tied" in settings else 1)


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"twice": True}])
def test_updates_with_stand_ins_are_those_of_one_backward_pass_a_candidate(settings):
    model, kernels = kernels_of(**settings)
    pixels = torch.rand(6, 1, 4, 4, generator=seeded(6), dtype=torch.float64)
    labels = torch.arange(6) % CLASSES

    found = kernels.updates(pixels, labels, 3)

    expected = oracle.updates(model, pixels, labels, 3)
    for name, tensor in expected.tensors.items():
        assert_close(found.tensors[name], tensor)


def test_every_stand_in_is_registered_for_exact_types():
    class Mine(nn.BatchNorm2d):
        pass

    assert Mine not in STAND_INS
    assert {nn.BatchNorm2d, nn.Conv2d, nn.MultiheadAttention} <= set(STAND_INS)


def test_a_candidates_moments_do_not_depend_on_how_many_others_there_are():
    model = build(lambda: SmallMaps(width=64), 1)
    kernels = Kernels(model, (1, 4, 4))
    pixels, labels = torch.rand(24, 1, 4, 4, generator=seeded(6)), torch.arange(24) % CLASSES
    observation = Observation(compute_update(model, pixels[:1] * 0.9, labels[:1]))

    def gaps(candidates):
        some = slice(candidates)
        return kernels.moments(pixels[some], labels[some], [(observation, candidates)])[0].gap

    with torch.no_grad():
        assert torch.equal(gaps(8), gaps(24)[:8])
