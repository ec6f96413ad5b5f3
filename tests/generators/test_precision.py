import pytest
import torch
from torch import nn

from engine.generators import MlpGenerator
from engine.generators.precision import PRECISIONS, in_precision
from search_spaces.latent_spaces.features import SplitGenerator
from search_spaces.latent_spaces.mapped import MappedGenerator
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


def test_generators_in_equal_precision_are_equal(generator):
    # So that what a search space found about one is known of the other.
    first, same, other = (in_precision(generator, name) for name in ("tf32", "tf32", "float32"))

    assert first == same
    assert hash(first) == hash(same)
    assert first != other


def test_both_parts_of_a_generator_are_run_in_its_precision(generator, inputs):
    class Mapped(nn.Module):
        latent_dim, classes, image_shape = 4, 2, (1, 6, 6)

        def mapping(self, latents, labels):
            return generator.project(latents).detach()

        def synthesise(self, mapped, labels):
            return generator.image(mapped.unflatten(1, (8, 3, 3))).sigmoid()

        def forward(self, latents, labels):
            return self.synthesise(self.mapping(latents, labels), labels)

    exact, lower = (in_precision(Mapped(), name) for name in ("float32", "bfloat16"))
    latents, labels = inputs

    assert isinstance(lower, MappedGenerator)
    assert lower.latent_dim == 4
    mapped, rounded = exact.mapping(latents, labels), lower.mapping(latents, labels)
    assert rounded.dtype == torch.float32
    assert 0 < (mapped - rounded).abs().max() < 2**-6
    assert torch.equal(rounded, rounded.bfloat16().float())
    images = exact.synthesise(mapped, labels), lower.synthesise(mapped, labels)
    assert 0 < (images[0] - images[1]).abs().max() < 2**-6
    assert torch.equal(images[0], exact(latents, labels))
    assert not isinstance(in_precision(generator, "float32"), MappedGenerator)


def test_features_and_the_images_of_them_are_made_in_the_precision_of_the_generator(inputs):
    latents, labels = inputs
    generator = build(
        lambda: MlpGenerator(latent_dim=4, classes=2, image_shape=(1, 6, 6), width=16), 1
    ).requires_grad_(False)

    exact, lower = (in_precision(generator, name) for name in ("float32", "bfloat16"))

    assert isinstance(lower, SplitGenerator)
    assert (lower.latent_dim, lower.stages) == (4, 2)
    features, rounded = (some.to_features(latents, labels, 1) for some in (exact, lower))
    assert rounded.dtype == torch.float32
    assert 0 < (features - rounded).abs().max() < 2**-4
    images, less = (some.from_features(features, labels, 1) for some in (exact, lower))
    assert 0 < (images - less).abs().max() < 2**-6
    assert torch.equal(images, exact(latents, labels))
    assert torch.equal(lower.from_features(rounded, labels, 1), lower(latents, labels))


def test_all_precisions_are_named():
    assert PRECISIONS == ("float32", "tf32", "bfloat16")
