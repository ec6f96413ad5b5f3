import pytest
import torch
from torch import nn

from engine.generators.precision import PRECISIONS, in_precision
from tests.conftest import build, seeded


class Convolutional(nn.Module):
    """A generator that notes in which precision its convolution answers, and under which flags."""

    latent_dim, classes, image_shape = 4, 2, (1, 6, 6)

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 72)
        self.image = nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1)
        self.seen = set()

    def forward(self, latents, labels):
        maps = self.image(self.project(latents).unflatten(1, (8, 3, 3)))
        self.seen.add((maps.dtype, torch.backends.cudnn.allow_tf32))
        return maps.sigmoid()


@pytest.fixture
def generator():
    return build(Convolutional, 3).requires_grad_(False)


@pytest.fixture
def inputs():
    return torch.randn(5, 4, generator=seeded(1)), torch.zeros(5, dtype=torch.long)


def test_single_precision_is_the_generator_itself(generator, inputs):
    assert torch.equal(in_precision(generator, "float32")(*inputs), generator(*inputs))


@pytest.mark.parametrize(
    ("precision", "seen"),
    [
        ("float32", (torch.float32, False)),
        ("tf32", (torch.float32, True)),
        ("bfloat16", (torch.bfloat16, False)),
    ],
)
def test_products_are_done_in_the_precision_asked_for(generator, inputs, precision, seen):
    images = in_precision(generator, precision)(*inputs)

    assert generator.seen == {seen}
    assert images.dtype == torch.float32


def test_lower_precision_changes_images_a_little(generator, inputs):
    exact, lower = (in_precision(generator, name)(*inputs) for name in ("float32", "bfloat16"))

    assert 0 < (lower - exact).abs().max() < 2**-6
    assert lower.min() >= 0
    assert lower.max() <= 1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_images_have_the_common_layout_whatever_the_generators(generator, inputs, precision):
    colour = nn.Sequential(nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 3, 4))
    colour.to(memory_format=torch.channels_last)
    assert not colour(inputs[0]).is_contiguous()

    images = in_precision(lambda latents, _: colour(latents), precision)(*inputs)

    assert images.is_contiguous()


def test_all_precisions_are_named():
    assert PRECISIONS == ("float32", "tf32", "bfloat16")
