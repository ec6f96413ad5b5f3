import math

import pytest
import torch

from search_spaces import Source, make_space
from search_spaces.latent_spaces.mapped import DRAWS, MappedGenerator, Synthesis, mapped_dim
from tests.conftest import seeded

CPU = torch.device("cpu")
FOUR_ERRORS = 4 / math.sqrt(DRAWS)


def space_of(generator, labels=(0,)):
    return make_space("w", latent_dim=3, images=len(labels), source=Source(generator, labels))


def test_a_generator_in_two_parts_is_known_by_them(tiny_mapped, generator):
    assert isinstance(tiny_mapped, MappedGenerator)
    assert not isinstance(generator, MappedGenerator)
    assert mapped_dim(tiny_mapped, CPU) == 3


def test_the_synthesis_makes_the_generators_images(tiny_mapped):
    latents, labels = torch.randn(4, 4, generator=seeded(0)), torch.tensor([0, 1, 1, 0])

    images = Synthesis(tiny_mapped)(tiny_mapped.mapping(latents, labels), labels)

    assert torch.equal(images, tiny_mapped(latents, labels))


def test_standard_normal_points_have_the_moments_of_mapped_prior_draws(tiny_mapped):
    # By another seed and by other means than the space's own: torch's moments of many draws.
    mapped = tiny_mapped.mapping(
        torch.randn(200_000, 4, generator=seeded(9)), torch.ones(200_000, dtype=torch.long)
    ).double()

    points = torch.randn(200_000, 3, generator=seeded(1), dtype=torch.float64)
    latents = space_of(tiny_mapped, labels=(1,)).to_latents(points, "normal")

    deviation = mapped.std(0).max()
    assert (latents.mean(0) - mapped.mean(0)).abs().max() < 2 * FOUR_ERRORS * deviation
    difference = torch.cov(latents.T) - torch.cov(mapped.T)
    assert difference.abs().max() < 4 * FOUR_ERRORS * deviation**2


def test_the_origin_is_the_mean_mapped_latent_of_each_class(tiny_mapped):
    space = space_of(tiny_mapped, labels=(0, 1))

    first, second = space.to_latents(torch.zeros(1, 6), "normal").unflatten(1, (2, 3))[0]

    torch.testing.assert_close(second - first, torch.ones(3))


def test_mapped_latents_of_lower_rank_are_followed():
    class Flat:
        latent_dim = 2

        def mapping(self, latents, labels):
            return latents[:, :1] * torch.tensor([[1.0, 2.0, 0.0]])

        def synthesise(self, mapped, labels):
            raise AssertionError("No image is to be made.")

        __call__ = synthesise

    latents = space_of(Flat()).to_latents(torch.randn(20, 3, generator=seeded(0)), "normal")

    latents = latents - latents.mean(0)
    torch.testing.assert_close(latents[:, 1], 2 * latents[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(latents[:, 2], torch.zeros(20), rtol=0, atol=1e-4)


def test_another_generator_is_refused(generator):
    with pytest.raises(ValueError, match="generator with mapping and synthesise for the space 'w'"):
        space_of(generator)


def test_a_latent_for_each_layer_is_refused():
    class ByLayer:
        latent_dim = 2

        def mapping(self, latents, labels):
            return torch.zeros(len(latents), 4, 3)

        def synthesise(self, mapped, labels):
            raise AssertionError("No image is to be made.")

        __call__ = synthesise

    with pytest.raises(ValueError, match=r"mapping network to \(N, w\), got \(N, 4, 3\)"):
        mapped_dim(ByLayer(), CPU)
